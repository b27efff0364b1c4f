"""What Debian, systemd or the kernel would reject on the node is rejected when the profile is read."""

import base64
import re
import subprocess
from pathlib import Path

import pytest

from osbuild.boot.flow import kernel_command_line
from osbuild.boot.kernel import Kernel
from osbuild.boot.slot import SlotImage
from osbuild.cli import main
from osbuild.config.board import default_board
from osbuild.config.checks import accounts, time_zone
from osbuild.config.checks import password_hash as hashes
from osbuild.config.checks.kernel import reserved_reason
from osbuild.config.checks.ssh_key import public_key_problem
from osbuild.config.load import load_profile
from osbuild.config.machine import DiskSettings
from osbuild.config.metadata import Size
from osbuild.config.profile import Profile, User
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.image.disk import check_esp_size
from osbuild.inputs.debian import stored_path
from osbuild.kubernetes.image_archive import SmallImage, write_image
from osbuild.rootfs import image_accounts
from osbuild.shared.errors import Error
from tests.support.archives import recent_archive

HEAD = "name: node\nversion: 1.0.0\n"

# what follows HEAD, line of the error, parts of the message, part of the hint
WRONG: list[tuple[str, int, tuple[str, ...], str]] = [
    # accounts
    ("users: [{name: daemon}]", 3, ("`daemon`", "system account"), "another name"),
    ("users: [{name: systemd-network}]", 3, ("system account",), "another name"),
    ("users: [{name: systemd-oom}]", 3, ("system account",), "another name"),
    ("users: [{name: _apt}]", 3, ("system account",), "another name"),
    ("users: [{name: root}]", 3, ("root is locked",), "sudo: true"),
    ("users: [{name: sudo}]", 3, ("`sudo`", "a group of the image"), "groups: [sudo]"),
    ("users: [{name: kvm}]", 3, ("a group of the image",), "groups: [kvm]"),
    ("users: [{name: admin, groups: [admin]}]", 3, ("`admin`", "gets that group anyway"), "remove"),
    ("users: [{name: a, groups: [b]}, {name: b}]", 3, ("`b`", "before the user"), "`b` before `a`"),
    ("users: [{name: admin, groups: [sudoo]}]", 3, ("`sudoo`", "does not have"), "`sudo`"),
    ("users: [{name: admin, groups: [sudo, docker]}]", 3, ("`docker`", "does not have"), "`packages`"),
    ("users: [{name: admin, groups: [plant]}]", 3, ("`plant`", "does not have"), "`g plant -`"),
    ("overlays: [./tree]\nusers: [{name: admin, groups: [plants]}]", 4, ("`plants`",), "`plant`"),
    ("users: [{name: Admin}]", 3, ("`Admin`",), "login name"),
    ("users: [{name: '123'}]", 3, ("`123`",), "login name"),
    ("overlays: [./tree]\nusers: [{name: app}]", 4, ("`app`", "system account"), "another name"),
    ("overlays: [./tree]\nusers: [{name: plant}]", 4, ("`plant`", "a group"), "groups: [plant]"),
    ("users: [{name: a, shell: /usr/bin/zsh}]", 3, ("`/usr/bin/zsh`", "does not have"), "packages+: [zsh]"),
    ("packages: [vim]\nusers: [{name: a, shell: /bin/fish}]", 4, ("does not have",), "packages+: [fish]"),
    ("users: [{name: a, shell: /bin/bsh}]", 3, ("does not have",), "/bin/bash"),
    (f"overlays: [base]\nusers: [{{name: a, shell: /bin/{'b' * 300}}}]", 4, ("does not have",), "/bin/bash"),
    # time
    ("time: {zone: US/Eastern}", 3, ("`US/Eastern`", "old name"), "`America/New_York`"),
    ("time: {zone: Europe/Kiev}", 3, ("old name",), "`Europe/Kyiv`"),
    ("time: {zone: EST5EDT}", 3, ("old name",), "tzdata-legacy"),
    ("time: {zone: Factory}", 3, ("does not have",), ""),
    ("time: {zone: posix/UTC}", 3, ("does not have",), ""),
    ("time: {servers: [192.0.2.300]}", 3, ("`192.0.2.300`", "not an IP address"), "ntp.example"),
    ("time: {servers: ['ntp:123']}", 3, ("`ntp:123`",), "ntp.example"),
    ("time: {servers: [-ntp.example]}", 3, ("`-ntp.example`",), "ntp.example"),
    ("time: {servers: [a..b]}", 3, ("empty",), "ntp.example"),
    ("time: {servers: [0.0.0.0]}", 3, ("`0.0.0.0`", "no address"), "ntp.example"),
    ("time: {servers: [224.0.0.1]}", 3, ("`224.0.0.1`", "multicast"), "ntp.example"),
    # kernel
    ("kernel: {arguments: [quiet root=/dev/sda]}", 3, ("`root=/dev/sda`", "sets itself"), "remove"),
    ("kernel: {arguments: [edge.slot=b]}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: [init=/bin/sh]}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: [rdinit=/bin/sh]}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: ['\"init=/bin/sh\"']}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: ['r\"o\"othash=0']}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: [rd.systemd.verity=0]}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: [systemd.gpt-auto=1]}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: [rw]}", 3, ("sets itself",), "remove"),
    ("kernel: {arguments: [a -- b]}", 3, ("`--`",), "remove"),
    ("kernel: {arguments: ['a=\"b c']}", 3, ("one double quote",), "pairs"),
    (f"kernel: {{arguments: ['{'a' * 1500}']}}", 3, ("1501 characters", "x86_64"), "sysctls"),
    (f"architecture: armv7\nkernel: {{arguments: ['{'a' * 500}']}}", 4, ("501 characters", "armv7"), "sysctls"),
    *(
        (f"kernel: {{arguments: [quiet {text}]}}", 3, (f"`{text}`", reason), "remove")
        for text, reason in (
            ("panic=0", "not reboot"),
            ("panic=", "not reboot"),
            ("panic=-0", "not reboot"),
            ("panic=never", "not reboot"),
            ("systemd.mask=edge-health.service", "no boot would be checked"),
            ("systemd.mask=boot-complete.target", "no boot would be checked"),
            ("systemd.unit=rescue.target", "without its services"),
            ("rd.systemd.unit=a.target", "without its services"),
            ("emergency", "without its services"),
            ("S", "without its services"),
            ("-b", "without its services"),
            ("break", "console"),
            ("break=top", "console"),
            ("rd.break", "console"),
            ("rd.systemd.break=pre-mount", "console"),
            ("systemd.machine-id=0123456789abcdef0123456789abcdef", "one machine ID"),
        )
    ),
    *(
        (f"kernel: {{sysctls: {{{name}: '{text}'}}}}", 3, (f"`{name}`", reason), "write")
        for name, text, reason in (
            ("kernel.panic", "abc", "a whole number"),
            ("kernel.panic", "", "a whole number"),
            ("kernel/panic", "0", "not reboot"),
            ("-vm.swappiness", "1.5", "a whole number"),
        )
    ),
    ("kernel: {sysctls: {net.ipv4.ip_forward: 1, net/ipv4/ip_forward: 0}}", 3, ("twice",), "`net.ipv4.ip_forward`"),
    ("kernel: {sysctls: {kernel.panic: 1, -kernel.panic: 0}}", 3, ("twice",), "`kernel.panic`"),
    ("hostname: localhost", 3, ("`localhost`",), "another name"),
    ("hostname: ip6-localhost", 3, ("`ip6-localhost`",), "another name"),
    ("agent: {server: 'https://0.0.0.0/'}", 3, ("no address",), "https://updates.example.com"),
    # what only a later step said
    (
        "agent: {server: 'https://ota.example:99999'}",
        3,
        ("`https://ota.example:99999`",),
        "https://updates.example.com",
    ),
    ("elements: [nowhere]", 3, ("`nowhere` is not",), "relative to the profile"),
    ("kubernetes: {images: [./tree]}", 3, ("`./tree` is not", "image archive"), "relative"),
    ("kubernetes: {manifests: [bad.yaml]}", 2, ("`bad.yaml`", "YAML"), "kubectl"),
    ("kubernetes: {manifests: [text.yaml]}", 3, ("no `apiVersion`", "document 2"), "kubectl"),
    ("kubernetes: {manifests: [app.yaml, tree/app.yaml]}", 3, ("two files called `app.yaml`",), "rename"),
    ("kubernetes: {images: [a.tar, tree/a.tar.gz]}", 3, ("two files called `a`",), "rename"),
    ("disk: {slot: 4096 GiB}", 3, ("at most 2048 GiB",), "or less"),
]

RIGHT = [
    "users: [{name: b}, {name: a, groups: [b, sudo, kvm], shell: /usr/sbin/nologin}]",
    "overlays: [./tree]\nusers: [{name: a, groups: [plant, app, member]}]",
    "packages: [docker.io]\nusers: [{name: a, groups: [docker]}]",  # the build knows
    "packages: [zsh]\nusers: [{name: a, shell: /usr/bin/zsh}]",
    "packages: [git]\nusers: [{name: a, shell: /usr/bin/git-shell}]",
    "overlays: [./tree]\nusers: [{name: a, shell: /usr/bin/own-shell}]",
    "packages: [tzdata-legacy]\ntime: {zone: US/Eastern}",
    "time: {zone: Etc/GMT+5, servers: [ntp.example, '2001:db8::1', 192.0.2.1, ntp.example.]}",
    "kernel: {arguments: [mitigations=off quiet, 'dyndbg=\"file a +p\"', rootwait, initcall_debug]}",
    "kernel: {arguments: [panic=5 panic=-1, systemd.mask=ssh.service, systemd.debug-shell, mem=2G, breakpoint=1, s=1]}",
    "kernel: {sysctls: {kernel.core_pattern: '', net.ipv4.tcp_rmem: '4096 131072 6291456', kernel.panic: -1}}",
    "kernel: {sysctls: {net.ipv4.conf.eth0/1.forwarding: 1, net/ipv4/conf/eth0.1/rp_filter: 1}}",
    "kubernetes: {manifests: [app.yaml], images: [a.tar]}",
    "agent: {server: 'http://[2001:db8::1]:8080/ota'}",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "tree/usr/lib/sysusers.d/app.conf": '# ours\nu! app - "An app"\ng plant -\nm app plant\nm app member\n',
        "tree/usr/bin/own-shell": "",
        "tree/app.yaml": "{apiVersion: v1, kind: Secret}\n",
        "tree/a.tar.gz": "",
        "a.tar": "",
        "app.yaml": "apiVersion: v1\nkind: Secret\n---\n---\napiVersion: v1\nkind: List\n",
        "text.yaml": "apiVersion: v1\nkind: Secret\n---\njust text\n",
        "bad.yaml": "apiVersion: v1\nkind: [Secret\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("text", "line", "message", "hint"), WRONG, ids=[entry[0][:60] for entry in WRONG])
def test_what_the_node_rejects_is_rejected_with_one_clear_error(
    folder: Path, text: str, line: int, message: tuple[str, ...], hint: str
) -> None:
    path = folder / "node.yaml"
    path.write_text(f"{HEAD}{text}\n")
    with pytest.raises(Error) as caught:
        load_profile(path)
    error = caught.value
    file = "bad.yaml" if "bad.yaml" in text else "node.yaml"
    assert f"{file}:{line if file == 'node.yaml' else 3}:" in (error.where or ""), error
    assert all(part in error.message for part in message), error.message
    assert error.hint and hint in error.hint, error.hint


@pytest.mark.parametrize("text", RIGHT, ids=[text[:60] for text in RIGHT])
def test_what_the_node_accepts_is_accepted(folder: Path, text: str) -> None:
    path = folder / "node.yaml"
    path.write_text(f"{HEAD}{text}\n")
    load_profile(path)


@pytest.mark.parametrize("version", ["1", "1.0", "2026.11", "1.0.0~rc1", "1.0.0.0", "1.0.0-"])
def test_a_version_that_no_bundle_could_have_is_rejected_at_once(tmp_path: Path, version: str) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"name: node\nversion: '{version}'\n")
    with pytest.raises(Error, match="can be compared") as caught:
        load_profile(path)
    assert caught.value.where == f"{path}:2:10"


def encode_key(name: str, *parts: bytes) -> str:
    """Return a public key of OpenSSH: its type, and its parts as strings (RFC 4251, 5)."""
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (name.encode(), *parts))
    return f"{name} {base64.b64encode(blob).decode()}"


ED25519 = encode_key("ssh-ed25519", bytes(32))
SIGNED = encode_key("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (ED25519, None),
        (SIGNED, None),
        (encode_key("ssh-rsa", b"\1\0\1", bytes(257)), None),
        (encode_key("ssh-ed25519", bytes(32), b"more"), "do not fill it"),
        (encode_key("ssh-rsa", b"\1\0\1" + bytes(64)), "do not fill it"),
        (f'restrict,pty,from="10.0.0.0/8,!10.0.0.1",Command="echo \\"a, b\\"" {ED25519} me@desk', None),
        (f"no-touch-required,verify-required {SIGNED}", None),
        (f"bogus-option {ED25519}", "not a list of options"),
        (f'restrict,bogus="a" {ED25519}', "not a list of options"),
        (f"restrict, pty {ED25519}", "not a list of options"),
        (f"command {ED25519}", "not a list of options"),
        (f'pty="yes" {ED25519}', "not a list of options"),
        (f"restrict, {ED25519}", "not a list of options"),
    ],
)
def test_a_public_key_is_one_that_sshd_accepts(line: str, problem: str | None) -> None:
    found = public_key_problem(line)
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_the_flow_s_own_arguments_are_all_reserved() -> None:
    image = SlotImage(Path("root"), Path("tree"), "0" * 64, "1" * 64, 5)
    arguments = kernel_command_line("a", image, default_board(Architecture.x86_64), []).split()
    free = ("panic=", "oops=", "quiet", "loglevel=", "systemd.show_status=", "console=", "lockdown=")  # may be changed
    assert [word for word in arguments if not reserved_reason(word) and not word.startswith(free)] == []


def test_an_argument_after_a_blank_replaces_that_of_the_image() -> None:
    image = SlotImage(Path("root"), Path("tree"), "0" * 64, "1" * 64, 5)
    line = kernel_command_line("a", image, default_board(Architecture.x86_64), ["quiet lockdown=confidentiality"])
    assert re.findall(r"lockdown=\w+", line) == ["lockdown=confidentiality"]


@pytest.fixture(scope="module")
def zone_packages() -> dict[str, set[str]]:
    """Names of zones in each of Debian's two packages, as the suite of the last day has them."""
    cache = Cache()
    archive = recent_archive(cache)
    debs = [
        deb
        for deb in archive.resolve_packages(["tzdata", time_zone.LEGACY])
        if deb.name in ("tzdata", time_zone.LEGACY)
    ]
    archive.download_packages(debs)
    packages = {}
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", stored_path(cache, deb)], stdout=subprocess.PIPE) as data:
            listed = subprocess.run(["tar", "-t"], stdin=data.stdout, capture_output=True, text=True, check=True)
        base = "./usr/share/zoneinfo/"
        files = {line.removeprefix(base) for line in listed.stdout.splitlines() if line.startswith(base)}
        other = ("right/", "posix", "localtime", "Factory", "leap", "tzdata.zi")
        packages[deb.name] = {
            name for name in files if not name.startswith(other) and not name.endswith(("/", ".tab", ".list"))
        }
    return packages


def test_the_list_of_zones_is_that_of_debian_s_packages(zone_packages: dict[str, set[str]]) -> None:
    known = time_zone.list_zones()
    assert zone_packages["tzdata"] - {""} == {name for name, modern in known.items() if name == modern}
    assert zone_packages[time_zone.LEGACY] - {""} == {name for name, modern in known.items() if name != modern}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hunter2", "not the hash"),
        ("$1$salt$GuZM6o/Uf1P7EFCrm0AZg0", "too weak"),
        ("$6$salt$short", "truncated"),
        ("$6$salt", "truncated"),
        ("$6$" + "a" * 17 + "$" + "b" * 86, "truncated"),
        ("$y$j9T$salt$" + "a" * 42, "truncated"),
        ("$6$salt$" + "b" * 85 + ":", "truncated"),
        ("$6$salt$" + "b" * 86, None),
        ("$6$rounds=5000$salt$" + "b" * 86, None),
        ("$5$salt$" + "b" * 43, None),
        ("$y$j9T$saltsaltsalt$gcJA76q/4v2FVtyzrkY/rYmxhqzGaIfrI15XnV1qKH3", None),
        ("$gy$j9T$salt$vLnZ71ogNQGLwAubX/hpAv6gf//XF0CMgPkRrOJM.E/", None),
        ("$7$CU..../....salt$kvF20SeCG46gWswJjSalNNoa9RtJVO22CDWOWdZ8TrA", None),
        ("$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.", None),
    ],
)
def test_a_hash_of_a_password_is_whole(text: str, reason: str | None) -> None:
    problem = hashes.password_problem(text)
    assert problem is None if reason is None else reason in (problem or "")
    assert text not in (problem or "")


def test_the_hash_that_the_hint_of_an_error_advises_is_accepted() -> None:
    result = subprocess.run(["openssl", "passwd", "-6", "hunter2"], capture_output=True, text=True, check=True)
    assert hashes.password_problem(result.stdout.strip()) is None


def test_system_accounts_are_also_those_that_an_overlay_declares(folder: Path) -> None:
    users, groups = accounts.declared_accounts([folder / "tree"])
    assert users - accounts.USERS == {"app"}
    assert groups - accounts.GROUPS == {"app", "plant", "member"}


def test_accounts_groups_and_shells_of_the_profile_s_packages_are_found_in_the_finished_image(tmp_path: Path) -> None:
    def profile(name: str, shell: str = "/bin/bash", groups: tuple[str, ...] = ()) -> Profile:
        users = (User("first"), User(name, shell=shell, groups=groups))
        return Profile("p", "1.0.0", packages=("postgresql", "git"), users=users)

    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\npostgres:x:105:109::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nssl-cert:x:108:postgres\n")
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/bash").touch()
    (tmp_path / "usr/bin/git-shell").symlink_to("/etc/alternatives/git-shell")
    image_accounts.check_image_accounts(profile("admin"), tmp_path)
    image_accounts.check_image_accounts(profile("admin", "/usr/bin/git-shell"), tmp_path)
    image_accounts.check_image_accounts(profile("admin", groups=("ssl-cert", "first")), tmp_path)
    with pytest.raises(Error, match="the group `ssl-certs`, which the image does not have") as caught:
        image_accounts.check_image_accounts(profile("admin", groups=("ssl-certs",)), tmp_path)
    assert "`ssl-cert`" in (caught.value.hint or "")
    for user, message in (("postgres", "system account"), ("ssl-cert", "a group of the image")):
        with pytest.raises(Error, match=message):
            image_accounts.check_image_accounts(profile(user), tmp_path)
    with pytest.raises(Error, match="does not have"):
        image_accounts.check_image_accounts(profile("admin", "/usr/bin/rssh"), tmp_path)


def test_a_boot_partition_has_room_for_three_boot_files(tmp_path: Path) -> None:
    boot, file = tmp_path / "boot", tmp_path / "edge-a.efi"
    (boot / "EFI/Linux").mkdir(parents=True)
    for path, size in ((boot / "EFI/Linux/edge-1-a+3.efi", 20), (file, 20), (boot / "loader.efi", 1)):
        with path.open("wb") as data:
            data.truncate(size * 2**20)
    check_esp_size(DiskSettings(esp=Size(64 * 2**20)), boot, file)
    with file.open("ab") as data:
        data.truncate(22 * 2**20)
    with pytest.raises(Error, match="64 MiB has no room") as caught:
        check_esp_size(DiskSettings(esp=Size(64 * 2**20)), boot, file)
    assert "`disk.esp: 128 MiB`" in (caught.value.hint or "")


def test_a_kernel_module_that_the_kernel_does_not_have_is_named(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, "6.12")
    kernel.modules.mkdir(parents=True)
    (kernel.modules / "modules.dep").write_text("kernel/net/br-netfilter.ko.xz: kernel/net/bridge.ko.xz\n")
    (kernel.modules / "modules.builtin").write_text("kernel/fs/ext4.ko\n")
    (kernel.modules / "modules.alias").write_text("# Aliases\nalias fs-xfs xfs\nalias pci:v* nic\n")
    (kernel.modules / "modules.builtin.modinfo").write_bytes(b"ext4.alias=fs-ext4\0ext4.license=GPL\0")
    kernel.check_modules(["br_netfilter", "br-netfilter", "ext4", "fs-xfs", "fs-ext4", "pci:v0001"])
    with pytest.raises(Error, match="has no module br_netfiltr") as caught:
        kernel.check_modules(["ext4", "br_netfiltr"])
    assert "`br_netfilter`" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("board: nowhere", "no board `nowhere`"),
        ("architecture: arm64\nkubernetes: {images: [pod.tar]}", "has no image for arm64, only for: amd64"),
        ("board: rpi3\nkubernetes: {images: [pod.tar]}", "has no image for arm64, only for: amd64"),
        ("kubernetes: {images: [a.tar]}", "not an image archive"),
    ],
)
def test_profile_check_looks_into_what_a_build_reads_later(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = folder / "node.yaml"
    path.write_text(f"{HEAD}{text}\n")
    pod = SmallImage(name="localhost/pod:1", files={"pod": (b"", 0o755)}, entrypoint=["/pod"])
    write_image(folder / "pod.tar", pod, Architecture.x86_64)
    with pytest.raises(SystemExit) as stopped:
        main(["profile", "check", str(path)])
    assert stopped.value.code == 1
    output = capsys.readouterr().err
    assert message in output and f"{path}:{3 + text.count(chr(10))}" in output and "hint:" in output


@pytest.mark.parametrize(
    "path", sorted((paths.PROJECT / "qemu-tests/profiles").glob("*.yaml")), ids=lambda path: path.stem
)
def test_profiles_of_the_tests_on_machines_are_accepted(tmp_path: Path, path: Path) -> None:
    bases = [path] if path.stem != "next-server" else [path.with_stem("server"), path]  # as versions.py has them
    (tmp_path / "node.yaml").write_text(f"{HEAD}extends: [{', '.join(map(str, bases))}]\n")
    load_profile(tmp_path / "node.yaml")

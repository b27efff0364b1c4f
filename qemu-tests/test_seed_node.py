"""Seeds as other tools and people write them, on the image's own root: cloud-init and the agent run in a sandbox."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

import pytest
from support.seed_node import SeedNode, unpack_image_root

from osbuild.config.board import Board
from osbuild.config.load import find_profile, load_profile
from osbuild.config.profile import Profile
from osbuild.host import paths
from osbuild.host.cache import Cache
from osbuild.image.rauc_config import KEYRING_FILE
from osbuild.inputs.lock import read_lock
from osbuild.keys.authority import PrivateKeyAccess, create_keys, revoke_key, rotate_signer
from osbuild.keys.certificate import to_pem
from osbuild.keys.key_access import TokenAccess, open_signer
from osbuild.keys.key_folder import KeyFolder
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.sandbox.tools_tree import make_tools_tree
from osbuild.seed import cloud_config
from osbuild.seed.render import render_seed
from osbuild.seed.signature import sign_seed
from osbuild.seed.users import user_id
from osbuild.shared.seed import effective_keys

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIASHHjuBzZbwoz3erk3DPUBw0Z95yMo2zgj7jLufE7ZQ admin@desk"
HASH = "$6$salt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"
BASE = f"#cloud-config\nhostname: base-1\nusers:\n- name: op\n  ssh_authorized_keys: ['{KEY}']\n"
MARKER = "write_files:\n- path: /etc/marker\n  content: here\n"


@pytest.fixture(scope="module")
def root(board: Board, image: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the image `minimal`, shared by all tests."""
    if board.name != "x86_64":
        pytest.skip("programs of another architecture do not run in a sandbox of this machine")
    lock = read_lock(load_profile(find_profile("minimal")), board.name)
    assert lock is not None, "the image was built, so there is a lock"
    tools = make_tools_tree(Cache(), lock.image_tools)
    return unpack_image_root(image("minimal") / "root.erofs", tmp_path_factory.mktemp("root") / "files", tools)


@pytest.fixture
def node(root: Path, tmp_path: Path) -> SeedNode:
    return SeedNode.make(tmp_path / "node", root)


def seed(user: str | bytes, meta: str = "instance-id: i-1\nlocal-hostname: base-1\n") -> dict[str, bytes]:
    return {"user-data": user if isinstance(user, bytes) else user.encode(), "meta-data": meta.encode()}


def message(*parts: tuple[str, str]) -> bytes:
    mime = MIMEMultipart()
    for kind, text in parts:
        mime.attach(MIMEText(text, kind))
    return mime.as_bytes()


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(seed(BASE + MARKER, ""), id="empty meta-data"),
        pytest.param(seed(BASE + MARKER, "{instance-id: iid-01, local-hostname: flow-1}\n"), id="flow style"),
        pytest.param(seed(BASE + MARKER, "---\ninstance-id: iid-01\n...\n"), id="end of document"),
        pytest.param(seed(BASE + MARKER, '{\n  "instance-id": "iid-01",\n}\n'), id="JSON with a comma more"),
        pytest.param(seed("\ufeff" + BASE + MARKER), id="byte order mark"),
        pytest.param(seed(gzip.compress((BASE + MARKER).encode())), id="gzip"),
        pytest.param(seed(message(("cloud-config", BASE), ("cloud-config", "#cloud-config\n" + MARKER))), id="MIME"),
        pytest.param(seed("## template: jinja\n" + BASE + MARKER), id="template"),
        pytest.param(seed(f"#cloud-config-archive\n- {json.dumps(BASE + MARKER)}\n"), id="archive"),
    ],
)
def test_a_node_applies_what_stock_cloud_init_applies(node: SeedNode, files: dict[str, bytes]) -> None:
    report = node.boot(files)
    assert (report["status"], report["configured"], report["errors"]) == (0, True, [])
    assert node.user("op") is not None
    assert KEY in node.keys("op")
    assert node.text("etc/marker") == "here"
    assert node.boot()["source"] == "EFI system partition"
    (node.folder / "efi/seed/user-data").unlink()
    assert node.boot()["source"] == "stored"
    assert node.user("op") is not None


def test_a_seed_that_does_not_parse_changes_nothing_and_is_reported(node: SeedNode) -> None:
    good, bad = seed(BASE), seed("#cloud-config\nusers:\n- name: op\n\tshell: /bin/bash\n")
    assert node.boot(good)["errors"] == []
    for _ in range(2):  # the bad seed has not replaced the good one
        report = node.boot(bad)
        assert report["source"] == "stored"
        assert "refused: user-data, line 4, column 1" in report["errors"][0]
        assert "edge-osbuild: seed error: seed on EFI system partition refused" in report["output"]
        assert node.user("op") is not None


def test_the_log_holds_what_cloud_init_did_and_its_warnings_are_reported(node: SeedNode) -> None:
    report = node.boot(seed(BASE + "timezone: Mars/Olympus\n"))
    log = node.text("run/cloud-init/cloud-init.log")
    assert "Loaded datasource DataSourceEdge" in log
    assert any("timezone" in line and "Mars/Olympus" in line for line in report["errors"])
    assert "[WARNING]" in report["output"]
    assert (report["status"], report["configured"]) == (0, True)
    assert node.user("op") is not None
    checked = node.run("/usr/lib/edge-osbuild/health.d/15-seed")
    assert (checked.returncode, "Mars/Olympus" in checked.stdout) == (0, True)


def test_one_bad_entry_does_not_stop_the_others(node: SeedNode) -> None:
    text = """#cloud-config
bootcmd: [[ls, /no/such/place]]
write_files:
- {path: /etc/machine-id/below, content: a}
- just a text
- {path: /etc/owned, content: a, owner: "nobody-here:root"}
- {path: /etc/coded, content: "%%%", encoding: gz+b64}
- {path: /etc/fetched, source: {uri: "http://192.0.2.1/"}}
- {path: /etc/late, content: late, owner: "op:op", defer: true}
- {path: /etc/later, content: a, owner: "nobody-here:root", defer: true}
- {path: /etc/last, content: last}
users:
- {name: "not a name"}
- 17
- {name: half, primary_group: missing}
- {name: op, groups: "adm, newgroup", ssh_authorized_keys: KEY}
ca_certs: {trusted: [MIIB]}
mounts: [[/dev/none1, /srv/data], nonsense]
chpasswd: {users: [{name: nobody-here, password: a, type: text}]}
timezone: Nowhere/At/All
""".replace("KEY", f"'{KEY}'")
    report = node.boot(seed(text))
    assert (report["status"], report["configured"], report["source"]) == (0, True, "EFI system partition")
    assert node.text("etc/last") == "last"
    assert node.text("etc/late") == "late"
    user = node.user("op")
    assert user is not None
    assert (node.path("etc/late").stat().st_uid, KEY in node.keys("op")) == (int(user[2]), True)
    assert "newgroup" in node.text("etc/group")
    errors = "\n".join(report["errors"])
    for message in (
        "bootcmd: its last command ended with 2", "write_files, /etc/machine-id/below", "write_files, entry 2",
        "write_files, /etc/owned", "write_files, /etc/coded", "write_files, /etc/fetched: `source` is not fetched",
        "write_files, /etc/later", "users, not a name", "users, entry 2", "users, half", "ca_certs, certificate 1",
        "mounts, /dev/none1: there is no device", "mounts, entry 2", "chpasswd, users, entry 1", "timezone",
    ):  # fmt: skip
        assert message in errors
    assert node.boot()["errors"] == report["errors"]


@pytest.mark.parametrize(
    "line",
    [
        "write_files: 5", "groups: {a: 7}", "ntp: [x]", "ca_certs: x", "mounts: {a: b}", "hostname: [1]",
        "user: {name: [a]}", "bootcmd: 5", "runcmd: [5]", "chpasswd: 3", "ssh_authorized_keys: 7", "ssh_pwauth: [x]",
        "output: {all: '> /no/such/folder/x'}", "reporting: 5", "system_info: {distro: nonsense}", "1: 2", "null: 1",
    ],
)  # fmt: skip
def test_a_key_with_an_unexpected_value_does_not_prevent_users(node: SeedNode, line: str) -> None:
    report = node.boot(seed(BASE + line + "\n"))
    assert (report["configured"], report["source"]) == (True, "EFI system partition")
    assert KEY in node.keys("op")
    assert report["errors"] or report["warnings"]


def test_keys_of_a_template_are_checked_after_it_is_rendered(node: SeedNode) -> None:
    report = node.boot(seed("## template: jinja\n" + BASE + "packages: [a]\n"))
    assert [line for line in report["warnings"] if "`packages` has no effect" in line]


def test_each_file_of_write_files_has_the_stated_contents_and_mode(node: SeedNode) -> None:
    packed = "H4sIAAAAAAAAA8tIzcnJV0iv4gIAGJpUaQkAAAA="
    plain = zlib.decompress(__import__("base64").b64decode(packed), 31).decode()
    text = f"""#cloud-config
users: [{{name: op, uid: 1500}}]
write_files:
- {{path: /etc/wf/plain, content: "a\\n", permissions: "0640"}}
- {{path: /etc/wf/octal, content: "a\\n", permissions: 0600}}
- {{path: /etc/wf/b64, encoding: b64, content: aGVsbG8gYjY0Cg==}}
- {{path: /etc/wf/gz, encoding: gz+b64, content: {packed}}}
- {{path: /etc/wf/bin, encoding: gzip, content: !!binary {packed}}}
- {{path: /etc/wf/app, content: "1\\n"}}
- {{path: /etc/wf/app, content: "2\\n", append: true}}
- {{path: /home/op/.config/x, content: "deferred\\n", owner: "op:op", defer: true}}
- {{path: /etc/wf/after-defer, content: "x\\n"}}
"""
    assert node.boot(seed(text))["errors"] == []
    contents = {name: node.text(f"etc/wf/{name}") for name in ("plain", "b64", "gz", "bin", "app", "after-defer")}
    assert contents == {
        "plain": "a\n", "b64": "hello b64\n", "gz": plain, "bin": plain, "app": "1\n2\n", "after-defer": "x\n",
    }  # fmt: skip
    modes = [node.path(f"etc/wf/{name}").stat().st_mode & 0o777 for name in ("plain", "octal")]
    assert modes == [0o640, 0o600]
    late = node.path("home/op/.config/x")
    assert (late.read_text(), late.stat().st_uid) == ("deferred\n", 1500)


def shadow(node: SeedNode, name: str) -> str:
    line = next(line for line in node.text("etc/shadow").splitlines() if line.startswith(f"{name}:"))
    return line.split(":")[1]


def test_top_level_keys_apply_to_the_default_user(node: SeedNode) -> None:
    proxmox = f"""#cloud-config
hostname: vm-7
manage_etc_hosts: true
fqdn: vm-7.site.example
user: carla
password: {HASH}
ssh_authorized_keys: ['{KEY}']
chpasswd: {{expire: False}}
users: [default]
package_upgrade: true
"""
    report = node.boot(seed(proxmox, "instance-id: 3f1c0de\n"))
    assert report["errors"] == []
    assert [line for line in report["warnings"] if "package_upgrade" in line]
    assert (shadow(node, "carla"), KEY in node.keys("carla")) == (HASH, True)
    assert node.text("etc/hostname").strip() == "vm-7"
    assert "vm-7.site.example" in node.text("etc/hosts")
    assert "carla" in "".join(path.read_text() for path in node.path("etc/sudoers.d").iterdir())
    plain = f"""#cloud-config
users: [default, op, {{name: two, groups: "adm, sudo", ssh_authorized_keys: "{KEY}", sudo: "ALL=(ALL) NOPASSWD:ALL"}}]
ssh_authorized_keys: ["{KEY}"]
password: changeme
chpasswd: {{expire: false}}
ssh_pwauth: true
"""
    assert node.boot(seed(plain))["errors"] == []
    assert node.user("carla") is None
    assert (KEY in node.keys("debian"), KEY in node.keys("two"), node.keys("op")) == (True, True, "")
    assert shadow(node, "debian").startswith("$y$")
    effective = node.run("sh", "-c", "mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /run/k; sshd -T -h /run/k")
    assert "passwordauthentication yes" in effective.stdout, effective.stderr
    # A seed without users creates Debian's default user. Our own seeds always have users.
    node.boot(seed("#cloud-config\nhostname: a\n"))
    assert node.user("debian") is not None
    node.boot(seed("#cloud-config\nusers: []\n"))
    assert node.user("debian") is None


def test_a_password_of_a_missing_user_does_not_affect_other_users(node: SeedNode) -> None:
    for key, entries in (
        ("users", "[{name: op, password: hush, type: text}, {name: nobody-here, password: hush, type: text}]"),
        ("list", "['op:hush', 'nobody-here:hush', hush]"),
        ("list", '"op:hush\\nnobody-here:hush\\n"'),
    ):
        report = node.boot(seed(BASE + f"chpasswd: {{expire: false, {key}: {entries}}}\n"))
        assert shadow(node, "op").startswith("$y$")
        assert report["errors"][0] == f"chpasswd, {key}, entry 2: there is no user nobody-here"
        assert "hush" not in report["output"]


def test_an_invalid_command_or_hash_affects_only_itself_and_is_not_quoted(node: SeedNode) -> None:
    text = """bootcmd: [{echo: hush}, [touch, /run/booted]]
runcmd:
- echo hush: a
- [echo, {hush: a}]
- 5
-
- [touch, /run/ran]
users: [{name: op, passwd: "op:hush"}, {name: two}]
"""
    report = node.boot(seed("#cloud-config\n" + text))
    reason = "expected a text or a list of texts; a text with `: ` must be in quotes"
    assert report["errors"] == [
        f"bootcmd, entry 1: {reason}",
        "users, op: `passwd` is not the hash of a password: it contains `:` or a line break",
        *(f"runcmd, entry {number}: {reason}" for number in (1, 2, 3)),
    ]
    assert (node.user("op"), node.user("two") is not None) == (None, True)
    assert node.agent("scripts").returncode == 0
    assert node.path("run/booted").exists() and node.path("run/ran").exists()
    assert "hush" not in report["output"]


def test_a_host_name_may_be_a_number(node: SeedNode) -> None:
    report = node.boot(
        seed(BASE.replace("hostname: base-1", "hostname: 101\nmanage_etc_hosts: true"), "local-hostname: 7\n")
    )
    assert (report["source"], report["errors"]) == ("EFI system partition", [])
    assert node.text("etc/hostname").strip() == "101"
    assert "101" in node.text("etc/hosts")
    node.boot(seed(BASE.replace("hostname: base-1\n", ""), "local-hostname: 7\n"))
    assert node.text("etc/hostname").strip() == "7"


def test_ids_follow_from_names_in_every_seed(node: SeedNode) -> None:
    assert node.boot(seed("#cloud-config\nusers: [{name: anna}, {name: bert}]\ngroups: [team, {crew: [anna]}]\n"))
    first = {name: node.user(name) for name in ("anna", "bert")}
    groups = {line.split(":")[0]: line.split(":")[2] for line in node.text("etc/group").splitlines()}
    assert [int(user[2]) for user in first.values() if user] == [user_id("anna", set()), user_id("bert", set())]
    assert node.boot(seed("#cloud-config\nusers: [{name: bert}]\ngroups: [crew]\n"))
    assert node.user("bert") == first["bert"]
    owners = {path.name: path.stat().st_uid for path in (node.folder / "var/home").iterdir()}
    assert owners == {"anna": user_id("anna", set()), "bert": user_id("bert", set())}
    after = {line.split(":")[0]: line.split(":")[2] for line in node.text("etc/group").splitlines()}
    assert after["crew"] == groups["crew"]


def test_users_are_created_despite_a_full_or_damaged_data_partition(node: SeedNode) -> None:
    home = node.folder / "var/home"
    home.rmdir()
    home.write_text("no folder can be made here")
    stored = node.folder / "var/lib/edge-osbuild/seed"
    stored.rmdir()
    stored.write_text("nor here")
    report = node.boot(seed(BASE))
    assert (report["status"], report["configured"]) == (0, True)
    assert KEY in node.keys("op")
    errors = "\n".join(report["errors"])
    assert "users, op: created without a home folder" in errors
    assert "the seed is applied, but cannot be stored" in errors


def test_a_seed_that_kills_cloud_init_keeps_the_users_and_is_reported(node: SeedNode) -> None:
    assert node.boot(seed(BASE))["errors"] == []
    killer = message(("cloud-boothook", "#!/bin/sh\nkill -9 $PPID\n"), ("cloud-config", "#cloud-config\nusers: [a]\n"))
    report = node.boot(seed(killer))
    assert (report["status"], report["configured"], report["source"]) == (0, True, "stored")
    assert node.user("op") is not None
    assert any("cloud-init did not finish" in line for line in report["errors"])
    assert node.boot({})["source"] == "stored"
    assert node.user("op") is not None


def test_kernel_arguments_cannot_name_another_seed(node: SeedNode) -> None:
    node.power_on()
    node.put(seed(BASE))
    # In a container, cloud-init reads the arguments of the first process as kernel arguments.
    argument = "ds=nocloud;s=http://192.0.2.1/;h=other"
    result = node.run("sh", "-c", "edge-agent seed find --wait 0 && edge-agent seed configure", "sh", argument)
    report = json.loads(node.text("run/edge-osbuild/seed.json"))
    assert (report["configured"], report["source"], report["errors"]) == (True, "EFI system partition", []), (
        result.stderr
    )
    assert node.text("etc/hostname").strip() == "base-1"
    assert KEY in node.keys("op")
    assert node.run("cloud-init", "schema", "--system").returncode == 0


@pytest.mark.parametrize(
    "network", [b"[" * 3000, bytes(range(256)), "version: 2\n".encode("utf-16"), b"version: 2\n\t"]
)
def test_an_invalid_network_config_does_not_prevent_users_and_is_not_quoted(node: SeedNode, network: bytes) -> None:
    report = node.boot({**seed(BASE), "network-config": network})
    assert (report["configured"], report["source"]) == (True, "EFI system partition")
    assert (report["errors"], report["warnings"]) == ([], []), "what is wrong with it is said by `edge-agent network`"
    assert KEY in node.keys("op")


def test_invalid_vendor_data_affects_only_itself(node: SeedNode) -> None:
    report = node.boot({**seed(BASE), "vendor-data": b"#cloud-config\nwrite_files: [\n"})
    assert (report["configured"], report["source"], report["errors"]) == (True, "EFI system partition", [])
    assert ["vendor-data is not used: vendor-data, line 3" in line for line in report["warnings"]] == [True]
    assert KEY in node.keys("op")


def test_mounts_accept_everything_that_mount_accepts(node: SeedNode) -> None:
    text = """mounts:
- [tmpfs, /srv/scratch, tmpfs, "size=8m"]
- [/var/tmp, /opt/tmp, none, bind]
- [LABEL=nowhere, /srv/label]
- ["192.0.2.1:/export", /srv/nfs, nfs]
- [swap, null]
- [/swap.img, none, swap, sw]
- [ephemeral0, /mnt]
- [vdz, /srv/vdz]
"""
    report = node.boot(seed(BASE + text))
    assert report["errors"] == [
        "mounts, LABEL=nowhere: there is no device LABEL=nowhere",
        "mounts, 192.0.2.1:/export: the image has no mount.nfs: add its package to the profile",
        "mounts, /swap.img: swap is not used on a node",
        "mounts, ephemeral0: there is no device ephemeral0",
        "mounts, vdz: there is no device vdz",
    ]
    lines = [line.split() for line in node.text("etc/fstab").splitlines() if "cloudconfig" in line]
    assert [line[:4] for line in lines] == [
        ["tmpfs", "/srv/scratch", "tmpfs", "size=8m,nofail,comment=cloudconfig"],
        ["/var/tmp", "/opt/tmp", "none", "bind,nofail,comment=cloudconfig"],
        ["LABEL=nowhere", "/srv/label", "auto", "defaults,nofail,comment=cloudconfig"],
    ]


def test_a_correct_seed_has_no_warning_and_a_seed_without_any_login_has_one(node: SeedNode) -> None:
    correct = BASE + "groups: [team, {crew: [op]}]\noutput: {all: '| tee -a /var/log/cloud-init-output.log'}\n"
    report = node.boot(seed(correct))
    assert (report["errors"], report["warnings"]) == ([], [])
    assert ["crew" in line and line.endswith(":op") for line in node.text("etc/group").splitlines()].count(True) == 1
    report = node.boot(seed("#cloud-config\nusers: [default]\n"))
    assert report["warnings"] == ["nobody can log in: no user has a key or a password"]
    groups = {line.split(":")[0] for line in node.text("etc/group").splitlines() if "debian" in line.split(":")[3]}
    assert groups == {"adm", "audio", "cdrom", "dialout", "dip", "floppy", "plugdev", "sudo", "video"}
    report = node.boot(seed("#cloud-config\nchpasswd: {users: [{name: root, password: a, type: text}]}\n"))
    assert report["warnings"] == []


def test_keys_without_effect_do_no_harm(node: SeedNode) -> None:
    text = f"""#cloud-config
users:
- {{name: one, selinux_user: staff_u, ssh_authorized_keys: ['{KEY}']}}
- {{name: two, snapuser: two@site.example}}
ntp: {{ntp_client: chrony, servers: [192.0.2.123], peers: [192.0.2.124], config: {{confpath: /etc/chrony.conf}}}}
disable_root: false
preserve_hostname: true
hostname:
write_files: [{{content: a}}, {{path: /etc/number, content: 5}}]
"""
    report = node.boot(seed(text))
    assert report["errors"] == [
        "write_files, entry 1: `path` is missing, or not a text",
        "write_files, /etc/number: `content` is not a text: put it in quotes",
    ]
    assert KEY in node.keys("one")
    assert node.user("two") is not None
    assert "192.0.2.123" in "".join(path.read_text() for path in node.path("etc/systemd/timesyncd.conf.d").iterdir())
    assert node.text("etc/hostname").strip() == "base-1"
    named = {line.split("`")[1] for line in report["warnings"] if "`" in line}
    assert named >= {"users.selinux_user", "users.snapuser", "ntp_client", "ntp.peers", "disable_root", "hostname",
                     "preserve_hostname"}  # fmt: skip


def test_a_key_that_is_not_a_text_does_not_prevent_users(node: SeedNode) -> None:
    report = node.boot(seed(BASE + "  true: 2020-01-01\n  80: a\nwrite_files: [{on: 1, path: /etc/x, content: a}]\n"))
    assert (report["configured"], report["source"]) == (True, "EFI system partition"), report["output"]
    assert KEY in node.keys("op")
    assert node.text("etc/x") == "a"


def test_unprintable_characters_do_not_end_the_agent(node: SeedNode) -> None:
    report = node.boot(seed('#cloud-config\nusers: [{name: "\\ud800\\e[2J"}, {name: op}]\nlocale: "\\ud800"\n'))
    assert (report["status"], report["configured"], report["source"]) == (0, True, "EFI system partition"), report[
        "output"
    ]
    assert node.user("op") is not None
    assert any(line.startswith("users, ··[2J") for line in report["errors"])
    assert "Traceback" not in report["output"]


def test_user_data_does_not_change_the_steps_of_cloud_init(node: SeedNode) -> None:
    text = BASE + "cloud_init_modules: []\nlogcfg: nonsense\ndef_log_file: /etc/log\n"
    report = node.boot(seed(text))
    assert report["errors"] == []
    assert node.user("op") is not None
    assert {line.split("`")[1] for line in report["warnings"]} >= {"cloud_init_modules", "logcfg", "def_log_file"}


def test_every_key_of_cloud_init_has_an_effect_or_a_warning_with_the_reason(root: Path, node: SeedNode) -> None:
    schema = root / "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
    parsed: dict[str, Any] = json.loads(schema.read_text())
    keys = set(parsed["properties"])
    for reference in parsed["allOf"]:
        keys |= set(parsed["$defs"][reference["$ref"].rpartition("/")[2]].get("properties", {}))
    assert len(keys) > 80
    assert keys - effective_keys.EFFECTIVE - set(effective_keys.WITHOUT_EFFECT) == set()
    text = BASE + "ntp: {servers: [192.0.2.123]}\nlocale: C.UTF-8\nswap: {filename: /var/swap, size: 1}\nnot_a_key: 1\n"
    report = node.boot(seed(text))
    assert report["errors"] == []
    assert "192.0.2.123" in "".join(path.read_text() for path in node.path("etc/systemd/timesyncd.conf.d").iterdir())
    assert node.text("etc/locale.conf") == "LANG=C.UTF-8\n"
    assert {line.split("`")[1] for line in report["warnings"] if "`" in line} >= {"swap", "not_a_key"}
    assert not (node.folder / "var/swap").exists()


def test_a_certificate_is_trusted_only_while_the_seed_has_it(node: SeedNode, tmp_path: Path) -> None:
    root = create_keys(tmp_path / "keys", "Example", PrivateKeyAccess()).certificate("root-1")
    text = to_pem(root).decode()
    report = node.boot(seed(BASE + f"ca_certs: {{trusted: [{json.dumps(text)}, MIIB]}}\n"))
    assert report["errors"] == ["ca_certs, certificate 2: not a certificate in PEM"]
    bundle = "etc/ssl/certs/ca-certificates.crt"
    assert text.strip() in node.text(bundle)
    assert "MIIB\n" not in node.text(bundle)
    folder = node.folder / "var/usrlocal/share/ca-certificates"
    assert list(folder.glob("cloud-init-ca-cert-*.crt"))
    trusted = node.text(bundle)
    assert node.run("update-ca-certificates", "--fresh").returncode == 0
    assert sorted(node.text(bundle).split()) == sorted(trusted.split()), "Debian's own program makes the same file"
    # They are stored on the data partition, and systemd-tmpfiles removes them at every boot.
    assert node.run("systemd-tmpfiles", "--remove", "--boot", "--prefix=/var").returncode == 0
    assert not list(folder.glob("cloud-init-ca-cert-*.crt"))


def test_our_own_seed_has_no_warnings(node: SeedNode, tmp_path: Path) -> None:
    rendered = render_seed(Profile(name="minimal", version="1.0.0"), "node-1", folder=tmp_path)
    report = node.boot(rendered.with_sums())
    assert (report["errors"], report["warnings"], report["configured"]) == ([], [], True)
    assert node.text("etc/hostname").strip() == "node-1"
    assert "edge-osbuild:" not in report["output"]


def test_apply_replaces_the_seed_and_refuses_a_bad_one(node: SeedNode) -> None:
    assert node.boot(seed(BASE))["errors"] == []
    new = node.folder / "tmp/new"
    new.mkdir()
    for name, data in seed("#cloud-config\nusers: [{name: new}]\n").items():
        (new / name).write_bytes(data)
    assert node.agent("apply", "/tmp/new").returncode == 0
    assert node.boot()["source"] == "stored"
    assert (node.user("new") is not None, node.user("op")) == (True, None)
    (new / "user-data").write_text("#cloud-config\n\tusers: []\n")
    refused = node.agent("apply", "/tmp/new")
    assert (refused.returncode, "line 2, column 1" in refused.stderr) == (1, True)
    assert "nothing was changed" in refused.stderr
    assert (node.boot()["source"], node.user("new") is not None) == ("stored", True)


VERIFY = """
import sys
sys.path.insert(0, "/usr/bin/edge-agent")
from pathlib import Path
from osbuild.shared.seed.files import read_seed
from osbuild.agent.seed.signature import verify_signature
from osbuild.agent.system import System
verify_signature(System(), read_seed(Path("/tmp/seed")))
"""


def verdict(node: SeedNode, files: dict[str, bytes], keys: KeyFolder) -> str:
    """Return why the image refuses a seed if it trusts `keys`; empty if it accepts the seed."""
    folder = node.folder / "tmp/seed"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    keyring = node.folder / "tmp/keyring.pem"
    keyring.write_bytes(keys.keyring())
    bound = f"mount --bind /tmp/keyring.pem /{KEYRING_FILE} && python3 -c '{VERIFY}'"
    result = node.run("sh", "-c", bound)
    return "" if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def test_a_signed_seed_is_good_by_the_images_own_keyring_only(node: SeedNode, tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    plain = render_seed(Profile(name="minimal", version="1.0.0"), "node-1", folder=tmp_path).with_sums()
    files = sign_seed(plain, *open_signer(keys, None, TokenAccess(bundle_tools, None)))
    assert list(files)[-1] == "SHA256SUMS"
    assert verdict(node, files, keys) == ""
    assert "not signed" in verdict(node, plain, keys)
    other_keys = create_keys(tmp_path / "other", "Example", PrivateKeyAccess())
    assert "signature is not valid" in verdict(node, files, other_keys)
    other_signer = open_signer(other_keys, None, TokenAccess(bundle_tools, None))
    assert "signature is not valid" in verdict(node, sign_seed(plain, *other_signer), keys)
    added = {"vendor-data": b"#!/bin/sh\n", **files}
    assert "vendor-data is not signed" in verdict(node, added, keys)
    changed = {**files, "user-data": files["user-data"] + b"# more\n"}
    assert "does not have the checksum" in verdict(node, changed, keys)
    before, after = (hashlib.sha256(seed_files["user-data"]).hexdigest().encode() for seed_files in (files, changed))
    lines = files["SHA256SUMS"].replace(before, after)
    assert "signature is not valid" in verdict(node, {**changed, "SHA256SUMS": lines}, keys)
    rotated = rotate_signer(keys.folder, PrivateKeyAccess())
    assert verdict(node, files, rotated) == ""
    revoked = revoke_key(keys.folder, "signer-1", PrivateKeyAccess(), reason="compromised")
    assert "revoked" in verdict(node, files, revoked)


def test_the_tested_node_has_the_steps_of_this_checkout(root: Path) -> None:
    steps = "usr/lib/edge-osbuild/cloud-init/steps.cfg"
    assert (root / steps).read_bytes() == (paths.PROJECT / "overlays/base" / steps).read_bytes()


def test_a_users_own_cloud_config_is_merged_with_the_profiles(node: SeedNode, tmp_path: Path) -> None:
    user_data = tmp_path / "own.yaml"
    user_data.write_text(
        f"#cloud-config\ntimezone: Europe/Berlin\nssh_authorized_keys: ['{KEY}']\nusers:\n- default\n"
        f"- name: operator1\n  ssh_authorized_keys: ['{KEY}']\nwrite_files:\n"
        "- {path: /etc/own, content: !!binary b3duCg==}\n"
        "- {path: /usr/local/bin/own, content: own, permissions: '0755', defer: true}\nntp: {servers: [192.0.2.9]}\n"
    )
    (tmp_path / "node.yaml").write_text(
        f"name: n\nversion: 1.0.0\noverlays: [base]\nusers: [{{name: admin, ssh_keys: ['{KEY}']}}]\n"
    )
    profile = load_profile(tmp_path / "node.yaml").profile
    report = node.boot(
        render_seed(profile, "gate-1", folder=tmp_path, user_data=cloud_config.read_user_data(user_data)).with_sums()
    )
    assert (report["errors"], report["warnings"]) == ([], []), report
    assert node.text("etc/hostname") == "gate-1\n"
    assert node.text("etc/own") == "own\n"
    assert node.path("etc/localtime").readlink().name == "Berlin"
    assert "192.0.2.9" in "".join(path.read_text() for path in node.path("etc/systemd/timesyncd.conf.d").iterdir())
    assert (node.folder / "var/usrlocal/bin/own").read_text() == "own"
    for name in ("admin", "operator1", "debian"):
        assert node.user(name), name
        assert KEY in node.keys(name), name
    for name in ("admin", "operator1"):
        line = node.user(name)
        assert line and int(line[2]) == user_id(name, set())

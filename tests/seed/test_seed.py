"""A seed from a profile: rendered, valid by cloud-init's schema, on a medium, on a disk."""

import hashlib
import io
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pycdlib
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from osbuild.agent.seed.media import read_label
from osbuild.cli.seed import command
from osbuild.config.agent import AgentSettings
from osbuild.config.metadata import SecretRef
from osbuild.config.network import Interface, NetworkSettings
from osbuild.config.profile import KubernetesSettings, Profile, TimeSettings, User
from osbuild.flash.node_seeds import SeedSources, render_nodes
from osbuild.flash.seed_insertion import insert_seed
from osbuild.formats import gpt
from osbuild.formats.fat import Fat
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_access import TokenAccess, open_signer
from osbuild.keys.key_folder import load_keys
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.seed import login
from osbuild.seed.cloud_init_schema import find_schemas, validate_seed
from osbuild.seed.esp_seed import find_mtools
from osbuild.seed.iso import make_iso
from osbuild.seed.render import SUMS, render_seed, yaml_value
from osbuild.seed.signature import sign_seed
from osbuild.seed.users import user_id
from osbuild.shared.errors import Error, UsageError
from tests.support.disks import unpack_disk
from tests.support.examples import examples

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIASHHjuBzZbwoz3erk3DPUBw0Z95yMo2zgj7jLufE7ZQ admin@desk"
HASH = "$6$salt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"
PLAIN = Profile(name="minimal", version="1.0.0")


def rendered(profile: Profile, folder: Path, node: str = "node-1") -> dict[str, object]:
    """The files as cloud-init reads them."""
    return {name: yaml.safe_load(text) for name, text in render_seed(profile, node, folder=folder).files.items()}


def written(files: dict[str, object]) -> dict[str, str]:
    """path -> content of user-data's write_files."""
    data = files["user-data"]
    assert isinstance(data, dict)
    return {entry["path"]: entry["content"] for entry in data["write_files"]}


@pytest.fixture(scope="session")
def schema() -> Path:
    """cloud-init's schemas; they come with a Debian package, from the cache or the archive."""
    return find_schemas(Cache())


def test_a_plain_profile_makes_a_node_with_its_name_and_nobody_to_log_in(tmp_path: Path, schema: Path) -> None:
    seed = render_seed(PLAIN, "node-1", folder=tmp_path)
    validate_seed(seed.files, schema)
    files = rendered(PLAIN, tmp_path)
    assert files["meta-data"] == {"instance-id": seed.instance, "local-hostname": "node-1", "dsmode": "local"}
    assert files["network-config"] == {"version": 2, "ethernets": {}}
    assert files["user-data"] == {
        "hostname": "node-1",
        "timezone": "UTC",
        "users": [],
        "write_files": [
            {
                "path": "/etc/edge-osbuild/agent.json",
                "permissions": "0600",
                "content": '{\n  "format": 3,\n  "node": "node-1",\n  "offline": true,\n  "server": null\n}\n',
            }
        ],
    }


def test_every_setting_of_a_seed_is_rendered(tmp_path: Path, schema: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys.pub").write_text(f"# people\n{KEY}\n\n")
    (tmp_path / "hash").write_text(HASH + "\n")
    monkeypatch.setenv("CLUSTER_TOKEN", "s3cret")
    profile = Profile(
        name="p",
        version="1",
        hostname="gate",
        users=(
            User(name="admin", ssh_keys=("file:keys.pub", KEY), sudo=True, groups=("adm", "dialout")),
            User(name="console", password=SecretRef("file:hash"), shell="/bin/sh"),  # noqa: S604
        ),
        network=NetworkSettings(
            (
                Interface(name="en*", dns=("192.0.2.1",)),
                Interface(
                    name="lan",
                    mac="52:54:00:AB:CD:EF",
                    dhcp=False,
                    addresses=("192.0.2.5/24", "2001:db8::5/64"),
                    gateway="192.0.2.1",
                    mtu=9000,
                ),
            )
        ),
        time=TimeSettings(servers=("ntp.example", "192.0.2.9"), zone="Europe/Berlin"),
        kubernetes=KubernetesSettings(role="server", token=SecretRef("env:CLUSTER_TOKEN"), labels={"site": "a"}),
        agent=AgentSettings(server="https://ota.example", offline=False),
    )
    validate_seed(render_seed(profile, "node-1", folder=tmp_path).files, schema)
    files = rendered(profile, tmp_path)
    data = files["user-data"]
    assert isinstance(data, dict)
    assert (data["hostname"], data["timezone"]) == ("gate", "Europe/Berlin")
    assert data["users"] == [
        {
            "name": "admin",
            "uid": user_id("admin", set()),
            "shell": "/bin/bash",
            "groups": ["adm", "dialout"],
            "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
            "lock_passwd": True,
            "ssh_authorized_keys": [KEY],
        },
        {
            "name": "console",
            "uid": user_id("console", set()),
            "shell": "/bin/sh",
            "lock_passwd": False,
            "passwd": HASH,
        },
    ]
    assert all(entry["permissions"] == "0600" for entry in data["write_files"] if "edge-osbuild" in entry["path"])
    contents = written(files)
    assert json.loads(contents["/etc/edge-osbuild/kubernetes.json"]) == {
        "token": "s3cret",
        "format": 3,
        "labels": {"site": "a"},
        "taints": [],
        "config": {},
    }
    agent = {"node": "node-1", "server": "https://ota.example", "offline": False, "format": 3}
    assert json.loads(contents["/etc/edge-osbuild/agent.json"]) == agent
    assert contents["/etc/systemd/timesyncd.conf.d/50-edge.conf"] == "[Time]\nNTP=ntp.example 192.0.2.9\n"
    assert contents["/etc/systemd/network/89-edge-ethernet.network"] == ""
    assert files["network-config"] == {
        "version": 2,
        "ethernets": {
            "~0": {
                "match": {"name": "en*"},
                "dhcp4": True,
                "dhcp6": True,
                "optional": True,
                "nameservers": {"addresses": ["192.0.2.1"]},
            },
            "lan": {
                "match": {"macaddress": "52:54:00:ab:cd:ef"},
                "dhcp4": False,
                "dhcp6": False,
                "optional": True,
                "mtu": 9000,
                "addresses": ["192.0.2.5/24", "2001:db8::5/64"],
                "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}],
            },
        },
    }


words = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
profiles = st.builds(
    Profile,
    name=names,
    version=st.just("1"),
    hostname=st.none() | names,
    users=st.lists(
        st.builds(
            User,
            name=names.filter(lambda name: name != "root"),
            ssh_keys=st.lists(words.map(lambda word: f"{KEY} {word}"), max_size=2).map(tuple),
            groups=st.lists(names, max_size=2).map(tuple),
            sudo=st.booleans(),
            shell=words,
        ),
        max_size=3,
        unique_by=lambda user: user.name,
    ).map(tuple),
    network=st.builds(
        NetworkSettings,
        st.lists(
            st.builds(
                Interface,
                name=names | st.just("en*"),
                dhcp=st.booleans(),
                addresses=st.lists(st.ip_addresses().map(lambda address: f"{address}/20"), max_size=2).map(tuple),
                dns=st.lists(st.ip_addresses().map(str), max_size=2).map(tuple),
                mtu=st.none() | st.integers(576, 65535),
            ),
            max_size=3,
            unique_by=lambda interface: interface.name,
        ).map(tuple),
    ),
    time=st.builds(TimeSettings, servers=st.lists(words, max_size=2).map(tuple), zone=words),
    kubernetes=st.builds(
        KubernetesSettings,
        role=st.sampled_from(["server", "none"]),
        labels=st.dictionaries(words, words, max_size=2),
        config=st.dictionaries(words, st.none() | words | st.integers() | st.lists(words, max_size=2), max_size=2),
    ),
)


@hypothesis_settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(profile=profiles)
def test_whatever_a_profile_says_arrives_as_it_is_and_is_valid(profile: Profile, schema: Path) -> None:
    folder = Path("/")
    validate_seed(render_seed(profile, "node-1", folder=folder).files, schema)
    files = rendered(profile, folder)
    data = files["user-data"]
    assert isinstance(data, dict)
    assert data["timezone"] == profile.time.zone
    assert [user["name"] for user in data["users"]] == [user.name for user in profile.users]
    assert [user["shell"] for user in data["users"]] == [user.shell for user in profile.users]
    keys = [list(dict.fromkeys(user.ssh_keys)) for user in profile.users]
    assert [user.get("ssh_authorized_keys", []) for user in data["users"]] == keys
    if profile.kubernetes.role != "none":
        assert json.loads(written(files)["/etc/edge-osbuild/kubernetes.json"])["config"] == profile.kubernetes.config


@given(value=st.recursive(words | st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_every_value_comes_back_out_of_yaml(value: object) -> None:
    assert yaml.safe_load(f"key: {yaml_value(value)}\n") == {"key": value}


def test_a_seed_that_changes_is_a_new_instance_and_only_then(tmp_path: Path) -> None:
    def instance(profile: Profile, node: str) -> str:
        return render_seed(profile, node, folder=tmp_path).instance

    first = instance(PLAIN, "a")
    assert first == instance(PLAIN, "a")
    assert first.startswith("a-")
    changed = Profile(name="minimal", version="1.0.0", time=TimeSettings(zone="Asia/Tokyo"))
    assert len({first, instance(PLAIN, "b"), instance(changed, "a")}) == 3


def test_a_user_id_follows_from_the_name_and_no_two_are_the_same() -> None:
    assert user_id("admin", set()) == 23326  # on disks in the field: never change it
    assert user_id("admin", {23326}) == 23327
    assert all(1000 <= user_id(f"user{number}", set()) < 60000 for number in range(1000))


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (Profile("p", "1", users=(User("a", password=SecretRef("env:NOT_SET_AT_ALL")),)), "NOT_SET_AT_ALL"),
        (Profile("p", "1", users=(User("a", password=SecretRef("file:plain")),)), "hash of a password"),
        (Profile("p", "1", users=(User("a", ssh_keys=("file:private",)),)), "private"),
        (Profile("p", "1", kubernetes=KubernetesSettings(role="agent")), "needs `server`"),
        (Profile("p", "1", kubernetes=KubernetesSettings(role="agent", server="https://s:6443")), "needs `token`"),
        (Profile("p", "1", agent=AgentSettings(offline=False)), "update server"),
        (Profile("p", "1", agent=AgentSettings(server="https://s", token="env:T")), "without an authority"),
        (
            Profile(
                "p", "1", agent=AgentSettings(server="https://s", authority="env:A", token="env:T", enrolment="env:E")
            ),
            "does not enrol",
        ),
    ],
)
def test_a_profile_that_can_make_no_node_says_why(tmp_path: Path, profile: Profile, message: str) -> None:
    (tmp_path / "plain").write_text("hunter2\n")
    (tmp_path / "private").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n")
    with pytest.raises(Error) as caught:
        render_seed(profile, "node-1", folder=tmp_path)
    assert message in str(caught.value) + (caught.value.hint or "")
    assert caught.value.hint
    assert "hunter2" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("node", ["", "Node", "a_b", "-a", "a-", "a.b", "x" * 64, "localhost"])
def test_a_name_that_no_host_can_have_is_refused(tmp_path: Path, node: str) -> None:
    with pytest.raises(UsageError, match="not a node's name"):
        render_seed(PLAIN, node, folder=tmp_path)


def test_what_cloud_init_does_not_take_is_refused_without_quoting_it(tmp_path: Path, schema: Path) -> None:
    files = render_seed(PLAIN, "node-1", folder=tmp_path).files
    with pytest.raises(Error, match=r"user-data, \$\.timezone") as caught:
        validate_seed({**files, "user-data": "#cloud-config\ntimezone: [hunter2]\n"}, schema)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "name", "why"),
    [
        (3000, "u{}", "more than 20000 values"),
        (1, "a", "user-data is larger than 4194304 bytes"),
    ],
)
def test_a_seed_that_a_node_would_refuse_is_not_made(tmp_path: Path, count: int, name: str, why: str) -> None:
    schema = find_schemas(Cache())
    users = tuple(User(name=name.format(number)) for number in range(count))
    seed = render_seed(Profile(name="a", version="1.0.0", users=users), "edge-1", folder=tmp_path)
    files = dict(seed.files) if count > 1 else {**seed.files, "user-data": seed.files["user-data"] + "#" * 2**22}
    with pytest.raises(Error, match="a node would refuse this seed") as caught:
        validate_seed(files, schema)
    assert why in str(caught.value)
    assert caught.value.hint


def read_iso(data: bytes) -> dict[str, bytes]:
    """name -> content, read by the Rock Ridge names; Joliet's must be the same."""
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(data))
    try:
        names = [child.rock_ridge.name().decode() for child in image.list_children(rr_path="/") if child.rock_ridge]
        files = {}
        for name in filter(None, names):
            if name in (".", ".."):
                continue
            rock, joliet = io.BytesIO(), io.BytesIO()
            image.get_file_from_iso_fp(rock, rr_path=f"/{name}")
            image.get_file_from_iso_fp(joliet, joliet_path=f"/{name}")
            assert rock.getvalue() == joliet.getvalue()
            files[name] = rock.getvalue()
        return files
    finally:
        image.close()


def test_a_medium_holds_the_files_and_is_labelled_for_cloud_init_and_the_device(tmp_path: Path) -> None:
    files = render_seed(PLAIN, "node-1", folder=tmp_path).with_sums()
    path = tmp_path / "seed.iso"
    path.write_bytes(make_iso(files))
    assert read_iso(path.read_bytes()) == files
    assert path.read_bytes()[0x8000 + 40 : 0x8000 + 72] == b"CIDATA".ljust(32)
    assert read_label(path) == "CIDATA"


def test_the_same_seed_is_the_same_bytes_in_every_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = render_seed(PLAIN, "node-1", folder=tmp_path).with_sums()
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    first = hashlib.sha256(make_iso(files)).hexdigest()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert hashlib.sha256(make_iso(files)).hexdigest() == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert hashlib.sha256(make_iso(files)).hexdigest() != first
    for wrong in ("yesterday", "9999999999", "9" * 20):  # ISO 9660 ends in 2155
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(Error, match="SOURCE_DATE_EPOCH"):
            make_iso(files)


def in_folder_seed(disk: Path) -> dict[str, bytes]:
    """The files below /seed of the EFI system partition."""
    [esp] = [entry for entry in gpt.read_table(disk).partitions if entry.type == gpt.ESP]
    with disk.open("rb") as image:
        fat = Fat(image, esp.offset, str(disk))
        return {file.path.name: fat.read(file) for file in fat.walk() if file.path.parts[0].lower() == "seed"
                and not file.folder}  # fmt: skip


def test_a_seed_goes_onto_the_disk_itself_and_a_new_one_replaces_it(tmp_path: Path) -> None:
    wrap = find_mtools(Cache())
    disk = unpack_disk("disk.img", tmp_path)
    before = gpt.read_table(disk)
    # mtools reads no FAT with sectors of 4096 bytes, which that one has; real images have 512.
    run_command(
        wrap(
            ["mformat", "-i", f"{disk}@@{before.partitions[0].offset}", "-T", "69632", "-h", "64", "-s", "32", "::"],
            [disk],
        )
    )
    for node in ("first", "second"):
        files = render_seed(PLAIN, node, folder=tmp_path).with_sums()
        insert_seed(files, disk, wrap=wrap)
        assert in_folder_seed(disk) == files
        assert stat.S_IMODE(disk.stat().st_mode) == 0o600
    assert gpt.read_table(disk) == before


def test_a_seed_goes_onto_nothing_but_a_disk_with_an_efi_system_partition(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(4096))
    with pytest.raises(Error, match="partition table"):
        insert_seed({}, other, wrap=lambda command, _: list(command))
    with pytest.raises(Error, match="this image does not exist"):
        insert_seed({}, tmp_path / "missing", wrap=lambda command, _: list(command))
    assert other.read_bytes() == bytes(4096)


def test_the_command_line_writes_files_for_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.umask(0)
    Path("n.yaml").write_text("name: n\nversion: 1.0.0\n")
    result = CliRunner().invoke(command, ["n.yaml", "--node", "n1", "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    assert document["seed"] == "n1-seed.iso"
    CliRunner().invoke(command, ["n.yaml", "--node", "n1", "-o", "folder"], catch_exceptions=False)
    assert {path.name: path.read_bytes() for path in Path("folder").iterdir()} == read_iso(
        Path("n1-seed.iso").read_bytes()
    )
    for path in (Path("n1-seed.iso"), *Path("folder").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert yaml.safe_load(Path("folder/meta-data").read_text())["instance-id"] == document["instance"]
    with pytest.raises(UsageError, match="cannot be combined"):
        CliRunner().invoke(command, ["n.yaml", "--node", "a", "-o", "x", "--into", "y"], catch_exceptions=False)


def test_a_signed_seed_has_its_signature_before_the_checksums_that_it_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    arguments = ["minimal", "--node", "node-1", "-o", "seed", "--keys", str(tmp_path / "keys")]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, UsageError)
    result = CliRunner().invoke(command, [*arguments, "--sign"], catch_exceptions=False)
    assert result.exit_code == 0
    sums = (tmp_path / "seed/SHA256SUMS").read_bytes()
    assert sums.startswith(b"# edge-osbuild seed\n")
    assert sums.count(b"\n") == 4
    assert (tmp_path / "seed/SHA256SUMS.p7s").stat().st_mode & 0o777 == 0o600
    signer = open_signer(load_keys(tmp_path / "keys"), None, TokenAccess(bundle_tools, None))
    assert list(sign_seed({"a": b"", SUMS: b""}, *signer))[-1] == SUMS


def test_a_token_that_can_be_guessed_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = Profile("p", "1", kubernetes=KubernetesSettings(role="server", token=SecretRef("env:CLUSTER_TOKEN")))
    for token, warned in (("s3cret", True), ("2f7c1be0b4d9a6e85c3f0d1b7a9e4c62", False)):
        monkeypatch.setenv("CLUSTER_TOKEN", token)
        render_seed(profile, "node", folder=Path())
        messages = capsys.readouterr().err
        assert ("openssl rand -hex 16" in messages) == warned and token not in messages


def test_an_agent_node_gets_one_token_and_never_that_of_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERS", "of servers, long enough to be no warning")
    monkeypatch.setenv("AGENTS", "of agents, long enough to be no warning")
    both = KubernetesSettings(
        role="server", token=SecretRef("env:SERVERS"), agent_token=SecretRef("env:AGENTS"), server="https://s:6443"
    )
    for settings, token, agent_token in (
        (both, os.environ["SERVERS"], os.environ["AGENTS"]),
        (replace(both, role="agent"), os.environ["AGENTS"], None),
        (replace(both, role="agent", agent_token=None), os.environ["SERVERS"], None),
    ):
        profile = Profile("p", "1", kubernetes=settings)
        content = json.loads(written(rendered(profile, Path()))["/etc/edge-osbuild/kubernetes.json"])
        assert (content.get("token"), content.get("agent_token")) == (token, agent_token)


@pytest.mark.parametrize(
    ("role", "token", "message"),
    [
        ("agent", "K10abc::node:secret", "not copied completely"),
        ("server", "abcdef.0123456789abcdef", "cannot have a created token"),
        ("agent", "abcdef.0123456789abcdef", None),
    ],
)
def test_a_token_that_cannot_be_one_is_refused(
    role: str, token: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTER_TOKEN", token)
    settings = KubernetesSettings(role=role, server="https://s:6443", token=SecretRef("env:CLUSTER_TOKEN"))
    if message is None:
        render_seed(Profile("p", "1", kubernetes=settings), "node", folder=Path())
        return
    with pytest.raises(Error, match=message) as caught:
        render_seed(Profile("p", "1", kubernetes=settings), "node", folder=Path())
    assert token not in str(caught.value)


LOGINS = {
    "nothing": ("", "", False),
    "a user without credentials": ("users: [{name: admin}]", "", False),
    "an SSH key": (f"users: [{{name: admin, ssh_keys: ['{KEY}']}}]", "", True),
    "a password": ("users: [{name: admin, password: env:HASH}]", "", True),
    "a user of a cloud-config": ("", f"users: [{{name: admin, ssh_authorized_keys: ['{KEY}']}}]", True),
    "a locked password of a cloud-config": ("", "users: [{name: admin, plain_text_passwd: abc}]", False),
    "the default user": ("", f"ssh_authorized_keys: ['{KEY}']", True),
    "a command": ("", "runcmd: [[useradd, admin]]", True),
}


@pytest.mark.parametrize("kind", LOGINS)
def test_a_node_that_nobody_can_log_in_to_is_warned_of(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    users, own, allowed = LOGINS[kind]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HASH", HASH)
    Path("n.yaml").write_text(f"name: n\nversion: 1.0.0\n{users}\n")
    Path("own.yaml").write_text(f"#cloud-config\n{own}\n")
    command.main(["n.yaml", "--node", "n1", "--json", "--user-data", "own.yaml"], standalone_mode=False)
    output = capsys.readouterr()
    assert ("lets nobody log in" in output.err) is not allowed
    assert ("`users: [{name: admin, sudo: true" in output.err) is not allowed
    assert json.loads(output.out)["warnings"] == ([] if allowed else [login.WARNING])
    render_nodes(tmp_path, SeedSources((), ("n1", "n2"), "n.yaml", ()))
    assert capsys.readouterr().err.count("lets nobody log in") == (kind in ("an SSH key", "a password")) ^ 1

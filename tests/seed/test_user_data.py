"""`seed --user-data`: a user's own cloud-config and the profile's, as one."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osbuild.agent.seed import user_data as device
from osbuild.cli.seed import command
from osbuild.config.load import load_profile
from osbuild.host.cache import Cache
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.seed import cloud_config
from osbuild.seed.cloud_init_schema import CHECKED, find_schemas, validate_seed
from osbuild.seed.render import RenderedSeed, render_seed
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.seed.effective_keys import EFFECTIVE, WITHOUT_EFFECT
from tests.support.examples import examples

PROFILE = """\
name: node
version: 1.0.0
overlays: [base]
users: [{name: admin, groups: [adm]}]
time: {servers: [ntp.example]}
"""
TIMES = "/etc/systemd/timesyncd.conf.d/50-edge.conf"
OWN = """\
#cloud-config
timezone: Europe/Berlin
users:
- name: operator1
  plain_text_passwd: hunter2
write_files:
- path: /etc/motd
  content: !!binary SGVsbG8K
- {path: /usr/local/bin/x, content: "a: b", permissions: "0755", defer: true}
runcmd:
- [systemctl, restart, x]
ntp:
  servers: [192.0.2.1]
"""


@pytest.fixture(scope="module")
def rules() -> Path:
    return find_schemas(Cache())


def make(folder: Path, own: str | bytes, rules: Path, profile: str = PROFILE) -> RenderedSeed:
    """The seed of the node edge-1, made as the command makes it."""
    (folder / "own.yaml").write_bytes(own.encode() if isinstance(own, str) else own)
    (folder / "node.yaml").write_text(profile)
    user_data = cloud_config.read_user_data(folder / "own.yaml")
    cloud_config.check_schema(user_data, rules / CHECKED["user-data"])
    loaded = load_profile(folder / "node.yaml")
    seed = render_seed(loaded.profile, "edge-1", folder=loaded.folder, user_data=user_data)
    validate_seed(seed.files, rules)
    return seed


def read(seed: RenderedSeed) -> dict[str, Any]:
    data = yaml.safe_load(seed.files["user-data"])
    assert isinstance(data, dict)
    return data


def test_lists_are_appended_and_the_user_s_values_win_over_defaults(tmp_path: Path, rules: Path) -> None:
    seed = make(tmp_path, OWN, rules)
    assert seed.files["user-data"].startswith("#cloud-config\n")
    data = read(seed)
    assert data["hostname"] == "edge-1"
    assert data["timezone"] == "Europe/Berlin"
    assert [user["name"] for user in data["users"]] == ["admin", "operator1"]
    paths = [entry["path"] for entry in data["write_files"]]
    assert paths[0] == "/etc/edge-osbuild/agent.json"
    assert paths[-2:] == ["/etc/motd", "/usr/local/bin/x"]
    assert data["write_files"][-2]["content"] == b"Hello\n"
    assert data["runcmd"] == [["systemctl", "restart", "x"]]
    assert data["ntp"] == {"servers": ["192.0.2.1"]}


def test_another_file_is_another_instance_and_a_node_accepts_it(tmp_path: Path, rules: Path) -> None:
    first = make(tmp_path, OWN, rules)
    assert first.instance == make(tmp_path, OWN, rules).instance
    other = make(tmp_path, OWN.replace("hunter2", "hunter3"), rules)
    assert first.instance != other.instance
    content = device.inspect_user_data(first.files["user-data"].encode(), "user-data")  # what the device does with it
    assert content.warnings == []
    assert "hunter2" not in repr(cloud_config.read_user_data(tmp_path / "own.yaml"))


def test_keys_of_the_default_user_bring_that_user(tmp_path: Path, rules: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIASHHjuBzZbwoz3erk3DPUBw0Z95yMo2zgj7jLufE7ZQ a"
    data = read(make(tmp_path, f"#cloud-config\nssh_authorized_keys: [{key}]\n", rules))
    assert [user if isinstance(user, str) else user["name"] for user in data["users"]] == ["admin", "default"]


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path, rules: Path) -> None:
    data = read(make(tmp_path, b"\xef\xbb\xbf" + OWN.replace("\n", "\r\n").encode(), rules))
    assert data["timezone"] == "Europe/Berlin"


def test_the_same_value_in_both_does_not_conflict(tmp_path: Path, rules: Path) -> None:
    profile = PROFILE + "hostname: gate\n"
    assert read(make(tmp_path, "#cloud-config\nhostname: gate\n", rules, profile))["hostname"] == "gate"
    with pytest.raises(UsageError, match="hostname: the profile has another value"):
        make(tmp_path, "#cloud-config\nhostname: other\n", rules, profile)
    assert read(make(tmp_path, "#cloud-config\nhostname: other\n", rules))["hostname"] == "other"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        # formats
        ("", "own.yaml:1: the first line is ``", "#cloud-config"),
        ("users: []\n", "expected `#cloud-config`", "#cloud-config"),
        ("#cloud-configs\na: b\n", "expected `#cloud-config`", "#cloud-config"),
        ("#!/bin/sh\nid\n", "a script", "#cloud-config"),
        ("## template: jinja\n#cloud-config\n", "a template", "#cloud-config"),
        ("#include\nhttps://a.example\n", "a list of URLs", "#cloud-config"),
        ("#cloud-boothook\nid\n", "a boot hook", "#cloud-config"),
        ("#cloud-config-archive\n- a\n", "an archive", "#cloud-config"),
        ("Content-Type: multipart/mixed; boundary=a\nMIME-Version: 1.0\n", "several parts", "#cloud-config"),
        # YAML
        ("#cloud-config\na:\n\tb: c\n", "own.yaml:3:1: found character", "YAML"),
        ("#cloud-config\n- a\n", "expected `key: value`", "YAML"),
        ("#cloud-config\nruncmd: []\nruncmd: [id]\n", "own.yaml:3:1: `runcmd` appears twice", "keep one"),
        ("#cloud-config\nusers:\n- name: a\n  name: b\n", "own.yaml:4:3: `name` appears twice", "keep one"),
        # keys without an effect
        ("#cloud-config\npackages: [vim]\n", "`packages` (the root file system is read-only", "remove"),
        ("#cloud-config\nsnap: {}\nresize_rootfs: true\n", "`resize_rootfs` (the data partition grows", "remove"),
        ("#cloud-config\nmerge_how: a\n", "`merge_how` (lists are appended", "remove"),
        # values
        ("#cloud-config\nruncmd: 5\n", "runcmd: cloud-init does not accept this", "documentation"),
        ("#cloud-config\nusers: [{name: [hunter2]}]\n", "users[0]", "documentation"),
        ("#cloud-config\nhostname: {hunter2: a}\n", "own.yaml:2:1, hostname:", "documentation"),
        ("#cloud-config\ntimezone: US/Eastern\n", "timezone: found the time zone", "America/New_York"),
        ("#cloud-config\nusers: [{name: daemon}]\n", "users[0]: found the user `daemon`", "another name"),
        ("#cloud-config\nuser: sudo\n", "user: found the user `sudo`", "groups: [sudo]"),
        ("#cloud-config\nusers: [{name: admin}]\n", "`admin` exists twice", "the profile"),
        ("#cloud-config\nusers: [{name: a}, {name: a}]\n", "`a` exists twice", "users[0]"),
        ("#cloud-config\nusers: [{name: a}]\npassword: hunter2\n", "is for cloud-init's default user", "default"),
        # groups, with which `useradd` would fail
        ("#cloud-config\nusers: [{name: a, groups: sudoo, create_groups: false}]\n", "`sudoo`", "`sudo`"),
        ("#cloud-config\nusers: [{name: a, groups: [till], create_groups: false}]\n", "users[0]: found", "`groups`"),
        ("#cloud-config\nusers: [{name: a, primary_group: till}]\n", "the group `till`", "add it to `groups`"),
        ("#cloud-config\nusers: [{name: a, groups: [b]}, {name: b}]\n", "`b` before the user", "`b` before `a`"),
        ("#cloud-config\nusers: [{name: a, groups: [a]}]\n", "`a` before the user", "remove it"),
        ("#cloud-config\ngroups: [b]\nusers: [{name: b}]\n", "groups: found the group `b`", "`primary_group`"),
        ("#cloud-config\ngroups: {admin: [root]}\n", "groups: found the group `admin`", "remove it"),
        ("#cloud-config\ngroups: [{till: [root, nobody, bob]}]\n", "found no user `bob`", "`users`"),
        # files
        ("#cloud-config\nwrite_files: [{path: /usr/bin/x, content: a}]\n", "read-only", "/usr/local"),
        ("#cloud-config\nwrite_files: [{path: //lib/x, content: a}]\n", "read-only", "/usr/local"),
        ("#cloud-config\nwrite_files: [{path: /usr/local/../bin/x}]\n", "`/usr/local/../bin/x`", "absolute"),
        ("#cloud-config\nwrite_files: [{path: x}]\n", "write_files[0]: found the path `x`", "absolute"),
        ("#cloud-config\nwrite_files: [{path: /etc/edge-osbuild/agent.json}]\n", "the edge agent's file", "--set"),
        ("#cloud-config\nwrite_files: [{path: /etc/edge-osbuild}]\n", "the edge agent's file", "--set"),
        (f"#cloud-config\nwrite_files: [{{path: {TIMES}}}]\n", "writes the file", "profile"),
        (f"#cloud-config\nwrite_files: [{{path: /{TIMES}}}]\n", "own.yaml:2:15, write_files[0]: the prof", "profile"),
        (f"#cloud-config\nwrite_files: [{{path: {TIMES}/a}}]\n", "can't both be files", "profile"),
        ("#cloud-config\nwrite_files: [{path: /etc/systemd}]\n", "can't both be files", "profile"),
    ],
)  # fmt: skip
def test_what_can_not_be_merged_or_has_no_effect_gives_one_clear_error(
    tmp_path: Path, rules: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make(tmp_path, text, rules)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.status == 2
    assert "own.yaml" in str(caught.value)


HASH = "$6$salt$" + "a" * 86
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIASHHjuBzZbwoz3erk3DPUBw0Z95yMo2zgj7jLufE7ZQ a"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("users: [{name: a b}]", "own.yaml:2:10, users[0].name: found the name `a b`", "another name"),
        ("users: ['a:b']", "users[0]: found the name `a:b`", "another name"),
        ("users: ['5']", "users[0]: found the name `5`", "another name"),
        ("users: {'a b': {gecos: a}}", "found the name `a b`", "another name"),
        ("users: [{name: a, uid: 0}]", "own.yaml:2:19, users[0].uid: found the user id `0`", "derives the id"),
        ("users: [{name: a, uid: -1}]", "found the user id `-1`", "derives the id"),
        ("users: [{name: a, uid: 4294967295}]", "found the user id `4294967295`", "derives the id"),
        ("users: [{name: a, uid: 33}]", "found the user id `33`", "derives the id"),
        ("users: [{name: a, uid: 1000}, {name: b, uid: '1000'}]", "the user `a` has the id 1000 too", "derives"),
        ("users: [{name: a, shell: /bin/zsh}]", "the shell `/bin/zsh`", "packages+: [zsh]"),
        ("users: [{name: a, ssh_authorized_keys: [nope]}]", "users[0].ssh_authorized_keys[0]: found no SSH", ".pub"),
        ("users: [{name: a, ssh-authorized-keys: [nope]}]", "found no SSH public key for user `a`", ".pub"),
        ("ssh_authorized_keys: [nope]", "own.yaml:2:23, ssh_authorized_keys[0]: found no SSH", ".pub"),
        ("users: [{name: a, passwd: hunter2}]", "users[0].passwd: this is not a password hash", "plain_text_passwd"),
        ("users: [{name: a, hashed_passwd: x}]", "users[0].hashed_passwd: this is not a password", "openssl"),
        ("users: [{name: a, sudo: 'garbage ('}]", "users[0].sudo: found a rule", "NOPASSWD"),
        ("users: [{name: a, sudo: ['ALL=(ALL NOPASSWD:ALL']}]", "users[0].sudo: found a rule", "NOPASSWD"),
        ("users: [{name: a, homedir: ../x}]", "users[0].homedir: found the home `../x`", "absolute"),
        ("users: [{name: a, homedir: /usr/a}]", "the home `/usr/a` can't be created", "no_create_home"),
        ("users: [{name: a, gecos: 'a:b'}]", "users[0].gecos: found a `:` or a line break", "remove"),
        ('users: [{name: a, gecos: "a\\nb"}]', "users[0].gecos: found a `:` or a line break", "remove"),
        ("users: [{name: a, groups: ['a b']}]", "users[0].groups: found the name `a b`", "another name"),
        ("users: [{name: a, groups: 'x y'}]", "users[0].groups: found the name `x y`", "another name"),
        ("groups: ['-g']", "groups: found the name `-g`", "another name"),
        ("chpasswd: {users: [{name: ghost, password: x, type: text}]}", "there is no user `ghost`", "`users`"),
        ("chpasswd: {list: 'ghost:hunter2'}", "chpasswd.list: there is no user `ghost`", "`users`"),
        ("chpasswd: {users: [{name: admin, password: hunter2}]}", "this is not a password hash", "type: text"),
        ("ssh_pwauth: maybe", "own.yaml:2:1, ssh_pwauth: found `maybe`", "unchanged"),
        ("hostname: localhost", "hostname: found the host name `localhost`", "edge-7"),
        ("hostname: 'a b'", "hostname: found the host name `a b`", "edge-7"),
        ("fqdn: x..y", "fqdn: found the host name `x..y`", "edge-7"),
        ("locale: xx_YY", "locale: the image does not have the locale `xx_YY`", "locales-all"),
        ("ntp: {servers: ['a b']}", "ntp.servers[0]: found the NTP server `a b`", "192.0.2.1"),
        ("ntp: {pools: ['-']}", "ntp.pools[0]: found the NTP server `-`", "192.0.2.1"),
        ("ntp: {ntp_client: chrony}", "the time client `chrony` has no effect", "remove"),
        ("ca_certs: {trusted: [nope]}", "own.yaml:2:22, ca_certs.trusted[0]: this is not a certificate", "BEGIN"),
        ("write_files: [{path: /}]", "write_files[0]: the path `/` is a folder", "a file"),
        ("write_files: [{path: /etc/}]", "write_files[0]: the path `/etc/` is a folder", "a file"),
        ('write_files: [{path: "/etc/x\\0y"}]', "write_files[0]: found the path", "absolute"),
        ("write_files: [{path: /etc/x}, {path: /etc/x/y}]", "can't both be files", "write_files[0]"),
        ("write_files: [{path: /etc/x/y}, {path: /etc//x}]", "can't both be files", "write_files[0]"),
        ("write_files: [{path: /etc/x, encoding: b64, content: '!!'}]", "write_files[0].content: the", "again"),
        ("write_files: [{path: /etc/x, encoding: gz+b64, content: 'aGk='}]", "is not gzip data", "again"),
        ("write_files: [{path: /etc/x, permissions: '999'}]", "found the permissions `999`", "0644"),
        ("write_files: [{path: /etc/x, permissions: '70000'}]", "found the permissions `70000`", "0644"),
        ('write_files: [{path: /etc/x, content: "\\ud800"}]', "write_files[0].content: found half", "itself"),
        ("write_files: [{path: /etc/x, source: {uri: 'http://x'}}]", "`source` is not fetched", "runcmd"),
        ("mounts: [[/dev/sdz, /]]", "own.yaml:2:10, mounts[0]: the system is mounted at `/`", "/srv"),
        ("mounts: [[/dev/sdz, /var/]]", "the system is mounted at `/var/`", "/srv"),
        ("mounts: [[/dev/sdz, /usr/x]]", "the system is mounted at `/usr/x`", "/srv"),
        ("mounts: [[/dev/sdz, a b]]", "found white space in `a b`", "040"),
        ("mounts: [[/dev/sdz, x]]", "found the mount point `x`", "absolute"),
        ("mounts: [[swap, none]]", "swap is not used on a node", "kubelet"),
        ("mounts: [[/dev/sdz, none, swap, sw]]", "swap is not used on a node", "kubelet"),
    ],
)  # fmt: skip
def test_values_are_checked_like_those_of_a_profile(
    tmp_path: Path, rules: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make(tmp_path, f"#cloud-config\n{text}\n", rules)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert "own.yaml:2:" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "users: [{name: A}, {name: a.b}, 'c,d']",  # Debian's useradd accepts them
        "users: [{name: a, uid: '2000', primary_group: '100'}]",
        f"users: [{{name: a, passwd: '{HASH}'}}, {{name: b, hashed_passwd: '!{HASH}'}}, {{name: c, passwd: '*'}}]",
        f"users: [default, {{name: a, ssh_authorized_keys: ['# mine', '', '{KEY}']}}]",
        f"ssh_authorized_keys: ['{KEY}', 'from=\"192.0.2.0/24\" {KEY}']",
        "users: [{name: a, sudo: false}, {name: b, sudo: 'ALL=(ALL) NOPASSWD:ALL'}, {name: c, sudo: ['ALL=/bin/id']}]",
        "users: [{name: a, shell: /usr/local/bin/fish}, {name: b, homedir: /srv/b}]",
        "users: [{name: a, system: true, homedir: /nonexistent, shell: /usr/sbin/nologin}]",
        "users: [{name: a, homedir: /usr/a, no_create_home: true}]",
        "users: [{name: a}]\nchpasswd: {expire: false, users: [{name: a, password: hunter2, type: text}]}",
        "chpasswd: {list: [debian:hunter2, root:hunter2]}\nssh_pwauth: 'yes'",
        "ssh_pwauth: unchanged",
        "bootcmd: [useradd ghost]\nchpasswd: {users: [{name: ghost, password: hunter2, type: text}]}",
        "hostname: gate_1\nfqdn: Gate_1.example.com",
        "locale: C.UTF-8",
        "locale: false",
        "ntp: {enabled: true, ntp_client: systemd-timesyncd, servers: ['2001:db8::1'], pools: [pool.ntp.org]}",
        "write_files: [{path: /etc/x, content: a}, {path: /etc/x, content: b, append: true}, {path: /etc/xy}]",
        "write_files: [{path: /etc/x, encoding: gzip+base64, content: H4sIAAAAAAAAA8vIBACsKpPYAgAAAA==}]",
        "write_files: [{path: /etc/x, permissions: '0o640', source: {uri: 'file:///etc/hosts'}}]",
        "write_files: [{path: /etc/x, encoding: b64, content: 'aG k='}]",
        "mounts: [[LABEL=a, /srv/a], [tmpfs, /tmp, tmpfs], [/dev/vdb, /var/lib/rancher], [none, /dev/x, hugetlbfs]]",
        "mounts: [[192.0.2.1:/a, /usr/local/a, nfs], [/home/a, /mnt/a, none, bind]]",
    ],
)
def test_values_that_work_on_a_node_are_accepted(tmp_path: Path, rules: Path, text: str) -> None:
    make(tmp_path, f"#cloud-config\n{text}\n", rules)


def test_certificates_are_accepted_alone_and_as_a_bundle(tmp_path: Path, rules: Path) -> None:
    create_keys(tmp_path / "keys", "example", PrivateKeyAccess())
    start = b"-----BEGIN CERTIFICATE-----"
    files = [path.read_bytes() for path in (tmp_path / "keys").rglob("*") if path.is_file()]
    text = next(data for data in files if data.startswith(start)).decode()
    config = {"ca_certs": {"trusted": [text, f"# mine\n{text}{text}"]}}
    make(tmp_path, "#cloud-config\n" + yaml.safe_dump(config), rules)
    config["ca_certs"]["trusted"].append(text.replace("MI", "NI", 1))
    with pytest.raises(UsageError, match=r"own\.yaml:\d+:5, ca_certs.trusted\[2\]: this is not a certificate"):
        make(tmp_path, "#cloud-config\n" + yaml.safe_dump(config), rules)


def test_values_of_packages_in_the_image_are_accepted(tmp_path: Path, rules: Path) -> None:
    text = "#cloud-config\nlocale: de_DE.UTF-8\nusers: [{name: a, shell: /bin/zsh}]\n"
    make(tmp_path, text, rules, PROFILE + "packages: [locales-all, zsh]\n")


@pytest.mark.parametrize(
    "text",
    [
        "users: [{name: a, groups: [till, docker]}]",  # cloud-init creates them
        "groups: till\nusers: [{name: a, groups: 'till, kvm', create_groups: false}]",
        "groups: [{till: [a, admin]}]\nusers: [{name: a, primary_group: till}]",
        "groups: [b]\nusers: [{name: b, primary_group: b}, {name: c, no_user_group: true, primary_group: users}]",
        "users: [{name: a}, {name: b, groups: [a, admin], create_groups: false}]",
        "users: [default, {name: b, groups: [till]}, {name: c, groups: [till], create_groups: false}]",
    ],
)
def test_groups_that_are_there_or_that_cloud_init_creates_are_accepted(tmp_path: Path, rules: Path, text: str) -> None:
    make(tmp_path, f"#cloud-config\n{text}\n", rules)


def test_the_groups_of_packages_are_not_known_before_the_build(tmp_path: Path, rules: Path) -> None:
    text = "#cloud-config\nusers: [{name: a, groups: [docker], create_groups: false}]\n"
    make(tmp_path, text, rules, PROFILE + "packages: [docker.io]\n")


def test_a_file_that_is_compressed_or_can_not_be_read_says_so(tmp_path: Path, rules: Path) -> None:
    with pytest.raises(UsageError, match="compressed"):
        make(tmp_path, gzip.compress(OWN.encode()), rules)
    with pytest.raises(UsageError, match="UTF-8"):
        make(tmp_path, OWN.encode() + b"a: \xff\n", rules)
    with pytest.raises(UsageError, match="1 MiB"):
        make(tmp_path, b"#cloud-config\n#" + bytes(2**20).replace(b"\0", b"a"), rules)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="cannot be read"):
            cloud_config.read_user_data(path)


SCRAPS: list[Any] = [
    None, True, 0, -1, 2**70, 1.5, "", "a", "root", "default", "/etc/x", "/usr/x", "\ud800", b"\xff", "a\n", [], {},
    [[]], [{}], {"name": "a"}, {"name": ["a"]}, {"path": 5}, {5: "a"}, ["default", "a"], {"users": []}, "US/Eastern",
]  # fmt: skip
NAMES = st.sampled_from(["name", "path", "content", "groups", "servers", "users", "a"])
VALUES = st.recursive(
    st.sampled_from(SCRAPS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A cloud-config with a few keys of other values, and at times a few other bytes."""
    config = yaml.safe_load(OWN)
    for _ in range(draw(st.integers(1, 3))):
        config[draw(st.sampled_from(sorted(EFFECTIVE)))] = draw(VALUES)
    data = b"#cloud-config\n" + yaml.safe_dump(config).encode(errors="surrogateescape")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        other = st.sampled_from([b"\t", b"&a ", b"*a", b"[", b"<<: ", b"\0", b'"\\ud800"', b"\xff", b"!!set "])
        data = data[:at] + draw(other) + data[at + draw(st.integers(0, 9)) :]
    return data


@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=damaged())
def test_any_user_data_is_merged_or_gives_one_error(
    data: bytes, rules: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        seed = make(tmp_path_factory.getbasetemp(), data, rules)
    except UsageError as error:
        assert error.hint and error.message and "\n" not in error.message
    else:
        seed.with_sums()
        assert read(seed)["write_files"][0]["path"] == "/etc/edge-osbuild/agent.json"


def test_every_key_of_cloud_init_s_schema_is_known_to_have_an_effect_or_not(rules: Path) -> None:
    known = yaml.safe_load((rules / "schema-cloud-config-v1.json").read_text())["properties"]
    assert set(known) - EFFECTIVE - set(WITHOUT_EFFECT) == set()


def test_the_command_merges_and_fails_as_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("node.yaml").write_text(PROFILE)
    Path("own.yaml").write_text(OWN)
    arguments = ["node.yaml", "--node", "n1", "-o", "out", "--user-data", "own.yaml"]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert yaml.safe_load(Path("out/user-data").read_text())["runcmd"] == [["systemctl", "restart", "x"]]
    Path("own.yaml").write_text("#cloud-config\npackages: [vim]\n")
    for path in Path("out").iterdir():
        path.unlink()
    with pytest.raises(Error, match="packages"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert list(Path("out").iterdir()) == []

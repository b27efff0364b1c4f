"""Profiles that are right: merging, origins, paths, secrets, what changes the image, and the command line."""

import dataclasses
import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from osbuild.cli import cli, main
from osbuild.config import secrets
from osbuild.config.affected import image_keys, seed_keys
from osbuild.config.key_table import Kind, every_key, keys_of
from osbuild.config.load import find_profile, load_profile
from osbuild.config.metadata import SecretRef, Size
from osbuild.config.network import Link
from osbuild.config.profile import Profile
from osbuild.config.show import render_profile
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error
from tests.config.test_errors import KEY

BASE = """\
name: base
version: 1.0.0
packages: [vim, nano]
overlays: [base, ./tree]
kernel:
  arguments: [quiet]
  sysctls: {net.ipv4.ip_forward: 1, kernel.panic: 10}
disk: {slot: 600 MiB}
users:
- name: admin
  ssh_keys: [file:keys/admin.pub]
kubernetes:
  token: file:token
  manifests: [app.yaml]
  config: {tls-san: [a.example], nested: {x: 1, y: 2}}
"""
LEAF = """\
name: leaf
extends: ../base
packages+: [htop]
kernel:
  arguments: [debug]
  sysctls: {kernel.panic: null, vm.swappiness: 5}
disk:
  data: 3 GiB
kubernetes:
  labels: {zone: "1"}
  config: {tls-san+: [b.example], nested: {y: 3}}
"""

FULL = f"""\
name: full
version: 1.2.3-rc1
architecture: arm64
description: "several\\nlines"
packages: [libstdc++6]
elements: [edge-debian]
time: {{servers: [ntp.example.com, "2001:db8::1"], zone: Europe/Berlin}}
network:
  interfaces:
  - {{name: "en*", dhcp: true, mtu: 9000}}
  - {{name: lan, mac: "52:54:00:12:34:56", dhcp: false, addresses: [192.0.2.5/31, "2001:db8::5/64"],
     gateway: 192.0.2.4, dns: [192.0.2.4]}}
users:
- {{name: a, ssh_keys: ['{KEY}', 'no-pty,from="10.0.0.0/8" {KEY}'], password: env:HASH, groups: [adm], sudo: true}}
kubernetes: {{taints: ["gpu=yes:NoSchedule", "a:NoExecute"], labels: {{example.com/zone: ""}}, images: [demo]}}
health: {{deadline: 30}}
update: {{deadline: 60, drain_deadline: 0, snapshots: 1, snapshot_space: 16 MiB}}
agent: {{server: "https://updates.example.com/path", offline: false}}
"""


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    """A profile in a folder of its own, below that of the one that it extends."""
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "tree").mkdir()
    (tmp_path / "app.yaml").touch()
    (tmp_path / "site").mkdir()
    path = tmp_path / "site" / "leaf.yaml"
    path.write_text(LEAF)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_mappings_merge_lists_replace_and_plus_appends(leaf: Path) -> None:
    profile = load_profile(leaf).profile
    assert (profile.name, profile.version) == ("leaf", "1.0.0")
    assert profile.packages == ("vim", "nano", "htop")
    assert profile.kernel.arguments == ("debug",)
    assert profile.kernel.sysctls == {"net.ipv4.ip_forward": 1, "vm.swappiness": 5}
    assert (profile.disk.slot, profile.disk.data) == (Size(600 * 2**20), Size(3 * 2**30))
    assert profile.kubernetes.config == {"tls-san": ["a.example", "b.example"], "nested": {"x": 1, "y": 3}}


def test_every_key_has_an_origin(leaf: Path) -> None:
    loaded = load_profile(leaf)
    base, own = str(leaf.parent.parent / "base.yaml"), str(leaf)
    assert loaded.files == (leaf.parent.parent / "base.yaml", leaf)
    assert loaded.origins["name"] == f"{own}:1"
    assert loaded.origins["version"] == f"{base}:2"
    assert loaded.origins["packages"] == f"{own}:3"
    assert [loaded.origins[f"packages[{number}]"] for number in range(3)] == [f"{base}:3", f"{base}:3", f"{own}:3"]
    assert loaded.origins["users[0].name"] == f"{base}:10"
    assert loaded.origins["users[0].shell"] == "default"
    assert loaded.origins["kubernetes.config.nested.x"] == f"{base}:15"
    assert loaded.origins["kubernetes.config.nested.y"] == f"{own}:11"
    assert loaded.origins["kubernetes.role"] == "default"
    dotted = {name for name, key in every_key() if key.shape.kind.value != "block" and "[]" not in name}
    assert dotted <= loaded.origins.keys()


def test_paths_are_relative_to_the_file_that_states_them(leaf: Path) -> None:
    loaded = load_profile(leaf)
    assert loaded.profile.overlays == ("base", "../tree")
    assert paths.overlay_path("base", loaded.folder) == paths.overlays_folder() / "base"
    assert paths.overlay_path("../tree", loaded.folder).is_dir()
    assert loaded.profile.kubernetes.manifests == ("../app.yaml",)
    assert loaded.profile.kubernetes.token == "file:../token"
    assert loaded.profile.users[0].ssh_keys == ("file:../keys/admin.pub",)


def test_a_path_beside_the_extending_profile_does_not_become_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "site" / "base").mkdir(parents=True)
    write(tmp_path / "one.yaml", "overlays: [./site/base]\n")
    leaf = write(tmp_path / "site" / "leaf.yaml", "name: a\nversion: 1.0.0\nextends: ../one.yaml\n")
    loaded = load_profile(leaf)
    assert loaded.profile.overlays == ("./base",)
    assert paths.overlay_path("./base", loaded.folder) == tmp_path / "site" / "base"


def test_a_base_that_two_share_is_applied_once(tmp_path: Path) -> None:
    write(tmp_path / "root.yaml", "hostname: root\npackages: [vim]\n")
    write(tmp_path / "a.yaml", "extends: root\nhostname: a\npackages+: [nano]\n")
    write(tmp_path / "b.yaml", "extends: root\npackages+: [htop]\n")
    loaded = load_profile(write(tmp_path / "leaf.yaml", "name: leaf\nversion: 1.0.0\nextends: [a, b.yaml]\n"))
    assert [path.stem for path in loaded.files] == ["root", "a", "b", "leaf"]
    assert loaded.profile.hostname == "a"
    assert loaded.profile.packages == ("vim", "nano", "htop")


def test_a_profile_may_extend_the_shipped_one_of_the_same_name(tmp_path: Path) -> None:
    loaded = load_profile(write(tmp_path / "minimal.yaml", "name: minimal\nversion: 2.0.0\nextends: minimal\n"))
    assert loaded.files[0] == paths.PROFILES / "minimal.yaml"
    assert loaded.profile.version == "2.0.0"


def test_null_gives_the_default_back(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "hostname: a\npackages: [vim]\nkubernetes: {distribution: upstream}\n")
    text = "name: a\nversion: 1.0.0\nextends: base\nhostname: null\npackages:\nkubernetes: {distribution: null}\n"
    profile = load_profile(write(tmp_path / "leaf.yaml", text)).profile
    assert (profile.hostname, profile.packages, profile.kubernetes.distribution) == (None, (), "k3s")


def test_everything_that_a_profile_can_say_is_read(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path / "full.yaml", FULL)).profile
    assert profile.architecture is Architecture.arm64
    assert profile.description == "several\nlines"
    assert profile.network.interfaces[1].addresses == ("192.0.2.5/31", "2001:db8::5/64")
    assert profile.network.interfaces[0].mtu == 9000
    assert profile.users[0].password == SecretRef("env:HASH")
    assert len(profile.users[0].ssh_keys) == 2
    assert profile.kubernetes.labels == {"example.com/zone": ""}
    assert profile.agent.offline is False


# the shipped profiles


@pytest.mark.parametrize("name", ["minimal", "edge-server", "edge-agent"])
def test_shipped_profiles_load_for_every_architecture(name: str) -> None:
    for architecture in Architecture:
        loaded = load_profile(find_profile(name), architecture=architecture)
        assert loaded.profile.name == name
        assert loaded.profile.architecture is architecture
        assert loaded.origins["architecture"] == "--arch"


def test_shipped_roles() -> None:
    profiles = {name: load_profile(find_profile(name)).profile for name in ("minimal", "edge-server", "edge-agent")}
    assert {name: profile.kubernetes.role for name, profile in profiles.items()} == {
        "minimal": "none",
        "edge-server": "server",
        "edge-agent": "agent",
    }
    server, agent = profiles["edge-server"], profiles["edge-agent"]
    assert server.overlays == agent.overlays == ("base", "ota", "kubernetes")
    assert (server.kubernetes.images, agent.kubernetes.images) == (("demo",), ())
    assert agent.kubernetes.version == server.kubernetes.version == "v1.35.0+k3s1"
    assert {"overlay", "br_netfilter", "nf_conntrack", "iptable_nat", "vxlan"} <= set(server.kernel.modules)


# what changes the image, and what only the seed


def test_image_and_seed_divide_the_keys_between_them() -> None:
    profile = load_profile(find_profile("edge-server")).profile
    image, seed = image_keys(profile), seed_keys(profile)
    json.dumps([image, seed])
    assert image["disk"]["slot"] == "1 GiB"
    assert image["kubernetes"]["version"] == "v1.35.0+k3s1"
    assert not {"users", "network", "time", "hostname", "agent", "description"} & image.keys()
    assert not {"token", "server", "node_ip", "labels", "taints", "config"} & image["kubernetes"].keys()
    assert seed.keys() == {"users", "network", "time", "hostname", "agent", "kubernetes", "ca_certificates"}
    assert not image["kubernetes"].keys() & seed["kubernetes"].keys()


SEED_CHANGES = {
    "hostname": "hostname: other",
    "users": "users: [{name: other, groups: [adm]}]",
    "network": "network: {interfaces: [{name: eth0, mtu: 1400}]}",
    "time": "time: {servers: [ntp.example.com]}",
    "agent": "agent: {server: 'https://updates.example.com'}",
    "kubernetes": "kubernetes: {token: env:TOKEN, server: 'https://a:6443', labels: {a: b}, config: {x: 1}}",
}
IMAGE_CHANGES = ["version: 1.0.1", "packages: [vim]", "kernel: {arguments: [quiet]}", "disk: {slot: 900 MiB}"]


@pytest.mark.parametrize("change", SEED_CHANGES.values(), ids=SEED_CHANGES)
def test_a_seed_key_changes_only_the_seed_part(tmp_path: Path, change: str) -> None:
    before = load_profile(write(tmp_path / "a.yaml", "name: a\nversion: 1.0.0\n")).profile
    after = load_profile(write(tmp_path / "a.yaml", f"name: a\nversion: 1.0.0\n{change}\n")).profile
    assert image_keys(before) == image_keys(after)
    assert seed_keys(before) != seed_keys(after)


@pytest.mark.parametrize("change", IMAGE_CHANGES)
def test_an_image_key_changes_only_the_image_part(tmp_path: Path, change: str) -> None:
    write(tmp_path / "base.yaml", "version: 1.0.0\n")
    before = load_profile(write(tmp_path / "a.yaml", "name: a\nextends: base\n")).profile
    after = load_profile(write(tmp_path / "a.yaml", f"name: a\nextends: base\n{change}\n")).profile
    assert image_keys(before) != image_keys(after)
    assert seed_keys(before) == seed_keys(after)


def test_every_secret_is_in_the_seed_part_only() -> None:
    def below(block: type, above: str) -> None:
        for key in keys_of(block).values():
            where = "seed" if above == "seed" else key.limits.get("affects", "image")
            if "secret" in key.limits or SecretRef in key.shape.types:
                assert (where, key.limits.get("secret"), key.limits.get("path")) == ("seed", True, "reference")
            for inner in (key.shape, key.shape.item):
                if inner and inner.types and dataclasses.is_dataclass(inner.types[0]):
                    below(inner.types[0], where)

    below(Profile, "image")


# secrets


def test_secrets_are_read_from_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("s3cret value\n")
    monkeypatch.setenv("TOKEN", "other")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert secrets.resolve_secret("file:token", folder=tmp_path) == "s3cret value"
    assert secrets.resolve_secret("file:~/token", folder=Path("/nowhere")) == "s3cret value"
    assert secrets.resolve_secret("env:TOKEN", folder=tmp_path) == "other"


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("file:missing", "No such file"),
        ("file:.", "Is a directory"),
        ("file:empty", "empty"),
        ("file:bytes", "not UTF-8"),
        ("file:large", "more than 64 KiB"),
        ("file:a\0b", "no such file can exist"),
        ("env:EDGE_UNSET", "not set"),
    ],
)
def test_an_unreadable_secret_is_named_but_not_shown(tmp_path: Path, reference: str, reason: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"hunter2\xff")
    (tmp_path / "large").write_text("hunter2" * 10000)
    with pytest.raises(Error) as caught:
        secrets.resolve_secret(reference, folder=tmp_path)
    assert reference in caught.value.message and reason in caught.value.message
    assert caught.value.hint
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_literal_secret_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        secrets.resolve_secret("hunter2", folder=tmp_path)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_public_keys_are_gathered_from_references(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# mine\n\n{KEY}\n{KEY} laptop\n")
    assert secrets.resolve_public_keys([KEY, "file:keys"], folder=tmp_path) == (KEY, KEY, f"{KEY} laptop")
    (tmp_path / "keys").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n")
    with pytest.raises(Error, match="private key") as caught:
        secrets.resolve_public_keys(["file:keys"], folder=tmp_path)
    assert "hunter2" not in str(caught.value)


# the command line


def test_show_prints_yaml_that_reads_back_as_the_same_profile(leaf: Path) -> None:
    loaded = load_profile(leaf)
    again = write(leaf.parent / "again.yaml", click.unstyle(render_profile(loaded)))
    assert load_profile(again).profile == loaded.profile
    full = load_profile(write(leaf.parent / "full.yaml", FULL))
    assert load_profile(write(leaf.parent / "again.yaml", click.unstyle(render_profile(full)))).profile == full.profile


def test_show_aligns_the_origin_of_each_value(leaf: Path) -> None:
    result = CliRunner().invoke(cli, ["profile", "show", str(leaf)])
    assert result.exit_code == 0
    lines = [line for line in result.output.splitlines() if not line.endswith(":")]
    assert {line.index("  # ") for line in lines} == {lines[0].index("  # ")}
    base = leaf.parent.parent / "base.yaml"
    stated = {tuple(" ".join(line.split()).split(" # ")) for line in lines}
    assert ("version: 1.0.0", f"{base}:2") in stated
    assert ("- htop", f"{leaf}:3") in stated
    assert ("flavour: cloud", "default") in stated
    assert "\x1b[" not in result.output
    assert "\x1b[" in CliRunner().invoke(cli, ["profile", "show", str(leaf)], color=True).output


def test_show_json_has_values_origins_and_files(leaf: Path) -> None:
    result = CliRunner().invoke(cli, ["profile", "show", str(leaf), "--json", "--arch", "armv7"])
    shown = json.loads(result.output)
    assert shown["profile"]["architecture"] == "armv7"
    assert shown["profile"]["disk"]["slot"] == "600 MiB"
    assert shown["origins"]["architecture"] == "--arch"
    assert shown["files"] == [str(leaf.parent.parent / "base.yaml"), str(leaf)]


def test_show_never_reads_a_secret(leaf: Path) -> None:
    (leaf.parent.parent / "token").write_text("hunter2\n")
    for arguments in ([], ["--json"]):
        output = CliRunner().invoke(cli, ["profile", "show", str(leaf), *arguments]).output
        assert "file:../token" in output and "hunter2" not in output


def test_exit_statuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = write(tmp_path / "wrong.yaml", "name: a\nversion: 1\n")
    right = write(tmp_path / "right.yaml", "name: a\nversion: 1.0.0\n")
    expected = {
        ("profile", "check", str(right)): 0,
        ("profile", "check", str(wrong), str(right)): 1,
        ("profile", "check"): 2,
        ("profile", "check", "no-such-profile"): 2,
        ("profile", "show", str(wrong)): 1,
        ("profile", "show", "no-such-profile"): 2,
        ("profile", "show", str(right), "--arch", "vax"): 2,
        ("profile", "shwo"): 2,
        ("profile", "schema"): 0,
    }
    for arguments, status in expected.items():
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        output = capfd.readouterr()
        assert stopped.value.code == status, arguments
        assert "Traceback" not in output.err


def test_check_reports_every_wrong_profile_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.yaml", "name: a\nversion: 1\n")
    two = write(tmp_path / "two.yaml", "")
    right = write(tmp_path / "right.yaml", "name: a\nversion: 1.0.0\n")
    with pytest.raises(SystemExit):
        main(["profile", "check", str(one), str(two), str(right)])
    output = capfd.readouterr()
    assert f"{one}:2:10: found the number `1`" in output.err.replace("\n", " ")
    assert f"{two}:1:1: the file is empty" in output.err.replace("\n", " ")
    assert output.err.count("error:") == output.err.count("hint:") == 2
    assert output.out == f"{right}: a 1.0.0 for x86_64 is valid\n"
    with pytest.raises(SystemExit):
        main(["profile", "check", "--json", str(one), str(right)])
    results = json.loads(capfd.readouterr().out)
    assert [(result["profile"], result["ok"]) for result in results] == [(str(one), False), (str(right), True)]
    assert results[0]["where"] == f"{one}:2:10"


def documented(dotted: str) -> str:
    """Keys that all kinds of interfaces have are in the reference once, for `network.interfaces`."""
    match = re.fullmatch(r"network\.(?:bonds|vlans|bridges|wifis)\[\]\.((\w+).*)", dotted)
    shared = match and match[2] in {field.name for field in dataclasses.fields(Link)} - {"name"}
    return f"network.interfaces[].{match[1]}" if match and shared else dotted


def test_the_reference_names_every_key_and_what_it_changes() -> None:
    text = (paths.PROJECT / "docs" / "profiles.md").read_text()
    assert not [dotted for dotted, _ in every_key() if f"`{documented(dotted)}`" not in text]
    rows = dict(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \| (image|seed|–) \|", text, re.MULTILINE))
    for dotted, key in every_key():
        if key.shape.kind is Kind.BLOCK or (key.shape.item and key.shape.item.kind is Kind.BLOCK):
            continue
        above = {
            name: inner.limits.get("affects", "image") for name, inner in every_key() if dotted.startswith(f"{name}.")
        }
        where = "seed" if "seed" in above.values() else key.limits.get("affects", "image")
        assert rows.get(documented(dotted)) == ("–" if where == "none" else where), dotted

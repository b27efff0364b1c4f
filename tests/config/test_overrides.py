"""`--set`: keys of the seed for one node."""

from pathlib import Path

import pytest

from osbuild.config import overrides
from osbuild.config.profile import Profile
from osbuild.shared.errors import UsageError

BASE = """\
name: n
version: 1.0.0
overlays: [base, kubernetes]
users: [{name: admin}, {name: guest}]
network: {interfaces: [{name: eth0}]}
kubernetes: {role: server, labels: {a: b}}
"""


def profile(folder: Path, *options: str) -> Profile:
    path = folder / "n.yaml"
    path.write_text(BASE)
    return overrides.load_with_settings(path, options).profile


def test_a_setting_replaces_what_the_profile_says_and_nothing_else(tmp_path: Path) -> None:
    changed = profile(
        tmp_path,
        "hostname=gate",
        "time.servers=[a, b]",
        "users[1].sudo=true",
        "network.interfaces[0].addresses=[192.0.2.5/24]",
        "network.interfaces[1]={name: eth1, mtu: 1400}",
        "kubernetes.labels.topology.kubernetes.io/zone=1",
        "kubernetes.config.tls-san=[a.example]",
        "kubernetes.server=https://s:6443",
    )
    assert (changed.hostname, changed.time.servers) == ("gate", ("a", "b"))
    assert [(user.name, user.sudo) for user in changed.users] == [("admin", False), ("guest", True)]
    assert [(each.name, each.addresses, each.mtu) for each in changed.network.interfaces] == [
        ("eth0", ("192.0.2.5/24",), None),
        ("eth1", (), 1400),
    ]
    assert changed.kubernetes.labels == {"a": "b", "topology.kubernetes.io/zone": "1"}
    assert changed.kubernetes.config == {"tls-san": ["a.example"]}
    assert changed.kubernetes.server == "https://s:6443"
    assert changed.kubernetes.role == "server"


def test_the_last_of_two_settings_counts_and_an_empty_one_is_the_default(tmp_path: Path) -> None:
    assert profile(tmp_path, "hostname=a", "hostname=b").hostname == "b"
    assert profile(tmp_path, "time.zone=").time.zone == "UTC"
    assert profile(tmp_path, "users=[]").users == ()


def test_a_reference_in_a_setting_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert profile(tmp_path, "kubernetes.token=file:token").kubernetes.token == "file:here/token"


@pytest.mark.parametrize(
    ("option", "message", "hint"),
    [
        ("hostname", "not KEY=VALUE", "--set hostname="),
        ("=x", "not KEY=VALUE", "--set"),
        ("hostnam=x", "this key does not exist", "`hostname`"),
        ("time.server=x", "this key does not exist", "`time.servers`"),
        ("servers=x", "this key does not exist", "`time.servers`"),
        ("hostname.x=y", "this key does not exist", "hostname"),
        ("users[0].nam=x", "this key does not exist", "`users[0].name`"),
        ("hostname[0]=x", "not a list", "[0]"),
        ("users[7].name=x", "has 2 items", "[2]"),
        ("version=2", "part of the image", "build"),
        ("kernel.arguments=[x]", "part of the image", "build"),
        ("kubernetes.role=agent", "part of the image", "build"),
        ("kubernetes={}", "part of the image", "one by one"),
        ("description=x", "has no effect on a node", "omit"),
        ("hostname=Gate", "hostname", ""),
        ("hostname=[", "", ""),
        ("hostname=a\x1b[31m", "character U+001B", "remove it"),
        ("kubernetes.token=file:\udcff", "character U+DCFF", "remove it"),
        ("network.interfaces=eth0", "expected a list", ""),
        ("kubernetes.token=hunter2", "reference to a secret", "file:"),
        # right alone, but not with the profile
        ("time.zone=US/Eastern", "old name", "America/New_York"),
        ("users[2]={name: daemon}", "system account", "another name"),
        ("users[2]={name: admin}", "two users", "keep one"),
        ("kubernetes.labels.node-role.kubernetes.io/x=a", "`node-role.kubernetes.io/x`", "kubectl"),
        ("kubernetes.node_ip=10.42.0.9", "range of the pods", "another range"),
    ],
)
def test_a_setting_that_can_not_be_says_what_is_wrong_with_it(
    tmp_path: Path, option: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        profile(tmp_path, option)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    name = option.partition("=")[0] if "KEY=VALUE" not in message else ""
    assert str(caught.value).startswith(f"--set {name}".rstrip())
    assert "hunter2" not in str(caught.value)
    assert caught.value.status == 2


@pytest.mark.parametrize("option", ["kubernetes.token=env:HOME", "kubernetes.labels.c=d"])
def test_a_setting_of_a_cluster_for_a_node_without_one_is_not_dropped_without_a_word(
    tmp_path: Path, option: str
) -> None:
    path = tmp_path / "n.yaml"
    path.write_text("name: n\nversion: 1.0.0\nextends: minimal\n")
    with pytest.raises(UsageError, match="no effect: nodes of the profile run no Kubernetes"):
        overrides.load_with_settings(path, [option])

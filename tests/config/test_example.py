"""`edge-osbuild new`: the profile that it writes is right as it is, and with each of its settings turned on."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from osbuild.cli import cli, main
from osbuild.config.example import render_example
from osbuild.config.key_table import INHERIT, every_key
from osbuild.config.load import load_profile

SETTING = re.compile(r"^#(?=\S|  )", re.MULTILINE)  # a `#` before a setting; prose has one blank after it
HOST = "kubernetes.registries.configs.registry:5000"
# Settings that are wrong without others of the same file, which the comments say.
NEEDS = {
    "network.bonds": ["network.interfaces"], "network.bridges": ["network.interfaces"],
    "network.vlans": ["network.interfaces"], "network.wifis": ["packages+", "kernel.flavour"],
    f"{HOST}.auth.username": [f"{HOST}.auth.password"], f"{HOST}.tls.cert_file": [f"{HOST}.tls.key_file"],
    f"{HOST}.auth.password": [f"{HOST}.auth.username"], f"{HOST}.tls.key_file": [f"{HOST}.tls.cert_file"],
    "network.proxy.no_proxy": ["network.proxy.http", "network.proxy.https"], "kubernetes.server": ["kubernetes.role"],
    "kubernetes.ingress": ["kubernetes.load_balancer"],
}  # fmt: skip


def settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a profile as (dotted name, value); lists as a whole, mappings by their entries."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


TURNED_ON = SETTING.sub("", render_example("shop"))
SETTINGS = dict(settings(yaml.safe_load(TURNED_ON)))
HEAD = dict(settings(yaml.safe_load(render_example("shop"))))


def write(path: Path, values: dict[str, Any]) -> Path:
    """A profile with some settings, by their dotted names."""
    tree: dict[str, Any] = {}
    for dotted, value in values.items():
        block = tree
        *above, name = re.split(r"\.(?!core|somaxconn|com|[a-z]+/)", dotted)
        for part in above:
            block = block.setdefault(part, {})
        block[name] = value
    path.write_text(yaml.safe_dump(tree))
    return path


def check(path: Path) -> None:
    result = CliRunner().invoke(cli, ["profile", "check", str(path)])
    assert result.exit_code == 0, path.read_text()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def test_a_new_profile_is_right_and_inherits_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("new", "shop") == 0
    assert "next: edge-osbuild build shop.yaml" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["shop.yaml"]
    assert HEAD == {"name": "shop", "version": "0.1.0", "extends": "edge-server"}
    assert status("profile", "check", "shop.yaml") == 0
    loaded = load_profile(folder / "shop.yaml")
    assert {dotted for dotted, origin in loaded.origins.items() if origin.startswith("shop.yaml:")} == {
        "name",
        "version",
    }


def test_it_is_right_with_every_setting_turned_on(folder: Path) -> None:
    (folder / "shop.yaml").write_text(TURNED_ON)
    check(folder / "shop.yaml")


@pytest.mark.parametrize("dotted", [name for name in SETTINGS if name not in HEAD])
def test_it_is_right_with_one_setting_turned_on(folder: Path, dotted: str) -> None:
    on = {name: SETTINGS[name] for name in [*NEEDS.get(dotted, []), dotted]}
    check(write(folder / "shop.yaml", {**HEAD, **on}))


def test_removing_the_comment_signs_changes_what_the_setting_says(folder: Path) -> None:
    """A typical edit: lines of a block are turned on by hand, the others stay comments."""
    lines = render_example("shop").splitlines(keepends=True)
    lines_to_enable = ("#kernel:\n", "#  flavour: generic\n", "#hostname: node-1\n")
    assert set(lines_to_enable) <= set(lines)
    (folder / "shop.yaml").write_text("".join(line[1:] if line in lines_to_enable else line for line in lines))
    profile = load_profile(folder / "shop.yaml").profile
    assert (profile.kernel.flavour, profile.hostname) == ("generic", "node-1")


def test_every_key_of_a_profile_is_in_it() -> None:
    names = set(re.findall(r"[a-z0-9_]+", render_example("shop")))
    assert {dotted.rpartition(".")[2] for dotted, _ in every_key()} <= names
    turned_on = {re.sub(r"\+$", "", name) for name in SETTINGS}
    plain = {dotted for dotted, _ in every_key() if "[]" not in dotted}
    blocks = {dotted for dotted in plain if any(name.startswith(f"{dotted}.") for name in plain)}
    maps = {
        "kubernetes.registries.configs",
        "kubernetes.registries.mirrors",
        "kernel.sysctls",
        "kubernetes.airgap_sha256",
        "kubernetes.sha256",
        "kubernetes.labels",
        "kubernetes.config",
        "agent.attributes",
    }
    assert plain - blocks - maps <= turned_on
    assert all(any(name.startswith(f"{each}.") for name in turned_on) for each in maps)
    assert INHERIT in turned_on


def test_nothing_that_exists_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "shop.yaml").write_text("mine\n")
    (folder / "link.yaml").symlink_to("nowhere")
    for name in ("shop", "link"):
        assert status("new", name) == 1
        assert f"error: {name}.yaml: the file exists already and is not replaced" in capsys.readouterr().err
    assert (folder / "shop.yaml").read_text() == "mine\n"
    assert sorted(path.name for path in folder.iterdir()) == ["link.yaml", "shop.yaml"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop.yaml", "hint: write `shop`"), ("site/shop", "hint: write `shop`"), ("Shop", "shop-floor"),
        ("../shop", "hint: write `shop`"), ("", "shop-floor"), ("shop\n", "shop-floor"), ("-", "shop-floor"),
        ("x" * 64, "shop-floor"), ("minimal", "hint: choose another name, such as `my-minimal`"),
    ],
)  # fmt: skip
def test_a_name_that_no_profile_can_have_is_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert status("new", name) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_the_longest_name_is_right(folder: Path) -> None:
    assert status("new", "x" * 63) == 0
    assert status("profile", "check", f"{'x' * 63}.yaml") == 0

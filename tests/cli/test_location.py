"""Paths on the command line: relative, below `~`, with any name, and things that are no files."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from bench.__main__ import command as bench

from osbuild import cli
from osbuild.cli.location import LOCATION, Location
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.sandbox import tools_tree
from tests.support import networks
from tests.support.disks import unpack_disk

STRANGE = ["with space", "comma,colon:", "-dash", "ümlaut", "quote\"'", os.fsdecode(b"not-utf8-\xff"), "line\nbreak"]


def commands(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group with its arguments."""
    if isinstance(group, click.Group):
        for subcommand_name in group.list_commands(click.Context(group)):
            subcommand = group.get_command(click.Context(group), subcommand_name)
            assert subcommand
            yield from commands(subcommand, f"{name} {subcommand_name}".strip())
    else:
        yield name, group


def status(*arguments: str | Path) -> object:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in arguments])
    return stopped.value.code


def test_every_path_of_every_command_is_read_in_the_same_way() -> None:
    every = [*commands(cli.cli, ""), ("bench", bench)]
    kinds = {f"{name} {param.name}": param.type for name, command in every for param in command.params}
    assert not [name for name, kind in kinds.items() if isinstance(kind, click.Path | click.File)]
    assert {"run persist", "run seed", "seed into", "keys init folder", "flash targets", "bench output"} <= {
        name for name, kind in kinds.items() if isinstance(kind, Location)
    }


def test_a_path_that_is_not_a_file_is_wrong_usage_and_never_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for name, kind in (("fifo", "a FIFO"), ("socket", "a socket"), ("/dev/null", "a character device")):
        place = tmp_path / name
        usages: list[list[str | Path]] = [
            ["inspect", place], ["run", place], ["flash", place, tmp_path / "x"], ["flash", tmp_path / "x", place],
            ["bundle", place], ["seed", "minimal", "--node", "n", "--into", place],
            ["seed", "minimal", "--node", "n", "-o", place], ["run", "x", "--seed", place], ["keys", "show", place],
            ["inspect", "x", "--against", place], ["build", "minimal", "-o", place],
        ]  # fmt: skip
        for arguments in usages:
            assert status(*arguments) == 2
            assert kind in capsys.readouterr().err
    for empty in (["inspect", ""], ["flash", "x", ""], ["build", "minimal", "-o", ""]):
        assert status(*empty) == 2
        assert "the path is empty" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["/proc/kmsg", "/proc/self/pagemap", "/proc/new", "/sys/kernel"])
def test_files_of_the_kernel_are_wrong_usage_and_are_never_opened(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(place)
    for path in (place, tmp_path / "link"):
        usages: list[list[str | Path]] = [
            ["inspect", path], ["flash", path, tmp_path / "x"], ["bundle", path], ["inspect", "x", "--keys", path],
            ["keys", "init", path, "--owner", "x"], ["seed", "minimal", "--node", "n", "--user-data", path],
            ["inspect", "x", "--against", path],
        ]  # fmt: skip
        for arguments in usages:
            assert status(*arguments) == 2
            assert "made by the kernel" in capsys.readouterr().err


def test_a_profile_that_a_reader_would_wait_for_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "shop.yaml"
    os.mkfifo(tmp_path / "fifo.yaml")
    for name in ("/proc/kmsg", str(tmp_path / "fifo.yaml")):
        profile.write_text(f"name: shop\nversion: 1.0.0\nextends: {name}\n")
        board = ["profile", "check", profile] if name.startswith("/proc") else ["build", "minimal", "--board", name]
        for arguments in (["profile", "show", name], ["profile", "show", profile], board):
            assert status(*arguments) in (1, 2)
            assert "hint:" in capsys.readouterr().err
    for key in ("images", "manifests"):
        profile.write_text(
            "name: shop\nversion: 1.0.0\noverlays: [base, kubernetes]\n"
            f"kubernetes: {{role: server, {key}: [/proc/kmsg]}}\n"
        )
        assert status("profile", "check", profile) == 1
        assert "`/proc/kmsg` is not" in capsys.readouterr().err


def test_the_home_folder_is_known_where_no_shell_expands_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_OSBUILD_CACHE", str(Cache().root))  # an empty one takes seconds to fill
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LOCATION.convert("~/x", None, None) == tmp_path / "x"
    assert LOCATION.convert("~", None, None) == tmp_path
    assert LOCATION.convert("a~/x", None, None) == Path("a~/x")
    (tmp_path / "tiny.yaml").write_text("name: tiny\nversion: 1.0.0\n")
    assert status("seed", "~/tiny.yaml", "--node", "n", "--output=~/n.iso") == 0
    assert (tmp_path / "n.iso").is_file()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_disk("disk.img", tmp_path_factory.mktemp("image"))


@pytest.mark.parametrize("name", STRANGE)
def test_names_may_be_anything_and_relative(
    name: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    (folder / "tiny.yaml").write_text("name: tiny\nversion: 1.0.0\n")
    disk = folder / "disk.img"
    run_command(["cp", "--sparse=always", image, disk.absolute()])
    (tmp_path / "link").symlink_to(folder)
    here = f"./{name}"
    for arguments in (
        ["seed", f"{here}/tiny.yaml", "--node", "n", "-o", f"{here}/{name}.iso"],
        ["seed", f"{here}/tiny.yaml", "--node", "n", "-o", "link/seed"],
        ["keys", "init", f"{here}/keys", "--owner", "me"],
        ["keys", "show", f"{here}/keys", "--keyring", f"{here}/ring"],
        ["inspect", f"{here}/disk.img"],
        ["inspect", f"{here}/disk.img", "--json"],
        ["inspect", "link"],
        ["flash", f"{here}/disk.img", f"{here}/copy", "--yes"],
        ["flash", "link/disk.img", "link/copy", "--yes", "--json"],
    ):
        assert status(*arguments) == 0, arguments
    assert (folder / f"{name}.iso").is_file()
    assert (folder / "copy").stat().st_size == disk.stat().st_size
    output = capsys.readouterr()
    assert "should not happen" not in output.err


def test_a_name_that_is_not_utf8_can_be_shown(image: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.img")
    (tmp_path / name).symlink_to(image)
    command: list[str | Path] = [sys.executable, "-m", "osbuild", "inspect", tmp_path / name]
    result = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2])
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"\\udcff.img" in result.stdout


def test_no_password_of_a_proxy_is_on_a_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree = networks.network_tools()
    secret = "http://me:hidden-word@proxy.example:3128"
    for name in ("https_proxy", "HTTP_PROXY", "MY_OWN_SECRET"):
        monkeypatch.setenv(name, secret)
    shown = [sys.executable, "-c", "import sys"]
    assert "hidden-word" not in " ".join(map(str, tree.wrap_command(shown, [tmp_path], env={"MINE": "1"})))
    script = "env; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ps -eo args 2>/dev/null"
    output = tree.run_command(["sh", "-c", script], env={"MINE": "1"})
    settings = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    assert settings["https_proxy"] == settings["HTTP_PROXY"] == secret
    assert (settings["MINE"], settings["HOME"], settings["PATH"]) == ("1", "/tmp", "/usr/sbin:/usr/bin")
    assert "MY_OWN_SECRET" not in settings
    assert output.count("hidden-word") == 2
    assert {"https_proxy", "no_proxy"} <= tools_tree.PASSED


@pytest.mark.parametrize(
    "options", ["--log disk.img", "--persist ./disk.img", "--persist link", "--log seed.iso", "--log hard"]
)
def test_run_never_writes_to_what_it_boots(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("disk.img", "seed.iso"):
        (tmp_path / name).write_bytes(b"precious")
    (tmp_path / "link").symlink_to("disk.img")
    (tmp_path / "hard").hardlink_to("disk.img")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", ".", *options.split()])
    assert f"{options.split()[0]} would overwrite this file, which is what is booted" in capsys.readouterr().err
    assert (tmp_path / "disk.img").read_bytes() == (tmp_path / "seed.iso").read_bytes() == b"precious"


def test_run_does_not_log_into_the_file_that_keeps_the_machines_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.img").write_bytes(b"precious")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "disk.img", "--persist", "new", "--log", "new"])
    assert "--log would overwrite this file, which is named by --persist too" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

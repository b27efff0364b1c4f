"""The command line: exit statuses, help, completion."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from osbuild import cli
from osbuild.host.version import read_version
from osbuild.shared.errors import Error, UsageError
from tests.support.interrupts import interrupt_at_import


def edge(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "osbuild", *arguments]
    path = str(Path(sys.executable).parent) + ":/usr/bin:/bin"
    return subprocess.run(
        command,
        env={"PATH": path, "COLUMNS": "120", **env},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


def status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return stopped.value.code


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"Usage: edge-osbuild {name}")


def test_help_lists_every_command_and_is_quick_to_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--help") == 0
    output = capsys.readouterr().out
    assert all(help in output for help in cli.COMMANDS.values())
    program = (
        "import sys, osbuild.cli; print([m for m in ('jinja2', 'yaml', 'jsonschema', 'qemu.qmp') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_version_names_the_distribution_and_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out == f"edge-osbuild {read_version()}\n"


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("inspect",), ("inspect", "--frobnicate", "x"), ("--frobnicate",)]
)
def test_a_wrong_command_line_ends_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_a_failure_ends_with_1_and_has_message_and_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("inspect", str(tmp_path)) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        f"error: {tmp_path}: this folder contains no disk.img",
        "  hint: run `edge-osbuild build` first",
    ]


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = edge("--debug", "inspect", str(tmp_path))
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert status("inspect", str(tmp_path)) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (Error("no"), 1),
        (UsageError("no"), 2),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("ours"), 1),
    ],
)
def test_each_kind_of_problem_has_its_status(
    problem: BaseException, expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(cli.cli, "invoke", fail)
    assert status("doctor") == expected
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    result = edge("completion", shell)
    assert result.returncode == 0
    assert "_EDGE_OSBUILD_COMPLETE" in result.stdout


def test_bash_accepts_its_script_and_completes_commands() -> None:
    script = edge("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    result = edge(_EDGE_OSBUILD_COMPLETE="bash_complete", COMP_WORDS="edge-osbuild do", COMP_CWORD="1")
    assert result.stdout.split() == ["plain,doctor"]


def test_a_closed_pipe_causes_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m osbuild completion bash | true"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_defect_and_no_file_takes_its_number(closed: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("name: tiny\nversion: 1.0.0\n")
    script = f'exec "$0" -m osbuild -v seed {tmp_path}/tiny.yaml --node n -o {tmp_path}/seed.iso {closed}'
    command = ["bash", "-c", script, sys.executable]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "seed.iso").read_bytes()[32769:32774] == b"CD001"
    program = (
        "from osbuild import cli; cli.open_standard_streams(); "
        "print(open('/dev/null').fileno() > 2, file=open('{}', 'w'))"
    )
    script = f'exec "$0" -c "{program.format(tmp_path / "answer")}" {closed}'
    subprocess.run(["bash", "-c", script, sys.executable], check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / "answer").read_text() == "True\n"


@pytest.mark.parametrize(
    "arguments", ["seed minimal --node n", "keys init k --owner me", "bundle x", "doctor", "new x"]
)
def test_a_current_folder_that_was_removed_is_named(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f'cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec "$0" -m osbuild {arguments}'
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True, env=env)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path}/gone: the current folder was removed\n  hint: ")


@pytest.mark.parametrize("module", ["click.core", "rich.console", "osbuild.cli", "osbuild.config.load"])
def test_ctrl_c_during_imports_prints_one_line(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "osbuild", "profile", "show", "edge-server"]
    assert interrupt_at_import(command, module) == (130, ["interrupted"])


def test_a_missing_profile_is_an_error_that_lists_the_shipped_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["profile", "show"], ["profile", "check"], ["build"], ["lock"], ["seed", "--node", "n"]):
        assert status(*arguments) == 2
        message = capsys.readouterr().err
        assert "Missing argument 'PROFILE" in message and "edge-agent, edge-server, minimal" in message


@pytest.mark.parametrize("columns", ["0", "000", "\u00b2", "\u0660", "9" * 5000, "-1", "abc", "", "1", "120"])
def test_an_error_is_printed_whatever_the_environment_says_of_the_terminal(columns: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f'cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec "$0" -m osbuild completion bash'
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": columns, "LINES": columns}
    result = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True, env=env)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "hint: " in result.stderr


@pytest.mark.parametrize("mask", [0o777, 0o222, 0o077, 0o022, 0])
def test_folders_of_seeds_and_keys_do_not_depend_on_the_umask(mask: int, tmp_path: Path) -> None:
    profile = tmp_path / "n.yaml"
    profile.write_text("name: n\nversion: 1.0.0\n")
    before = os.umask(mask)
    try:
        made = status("seed", str(profile), "--node", "n1", "-o", str(tmp_path / "seed"))
        created = status("keys", "init", str(tmp_path / "keys"), "--owner", "Example")
    finally:
        os.umask(before)
    assert (made, created) == (0, 0)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("seed", "keys", "keys/root")}
    assert modes == {"seed": 0o700, "keys": 0o700, "keys/root": 0o700}


def test_a_warning_of_a_library_is_not_printed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert edge("keys", "init", str(keys), "--owner", "Example").returncode == 0
    command = [
        "openssl",
        "genpkey",
        "-algorithm",
        "DH",
        "-pkeyopt",
        "group:ffdhe2048",
        "-out",
        str(keys / "signer-1.key"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "n.yaml").write_text("name: n\nversion: 1.0.0\n")
    result = edge(
        "seed", str(tmp_path / "n.yaml"), "--node", "n1", "--sign", "--keys", str(keys), "-o", str(tmp_path / "s")
    )
    assert result.returncode == 1
    assert "Warning" not in result.stderr and "P-256 or P-384" in result.stderr

"""The code itself: style, types, shell scripts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import PROJECT, list_files


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def check(*command: str) -> None:
    result = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout


def shell_scripts() -> list[Path]:
    """Files that begin as a script for a POSIX shell or bash."""
    results = []
    for path in list_files():
        with path.open("rb") as file:
            first = file.readline(100)
        if first.startswith(b"#!") and first.split()[-1].rpartition(b"/")[2] in (b"sh", b"bash"):
            results.append(path)
    return results


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "--no-fix"), ("ruff", "format", "--check"), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_python_passes(command: tuple[str, ...]) -> None:
    check(tool(command[0]), *command[1:])


def test_every_shell_script_passes_shellcheck() -> None:
    scripts = [str(path.relative_to(PROJECT)) for path in shell_scripts()]
    assert ".ci/run" in scripts
    check(tool("shellcheck"), "--severity=warning", *scripts)

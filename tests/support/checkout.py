"""The path and the files of the checkout under test."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def list_files() -> list[Path]:
    """Return every file of the checkout that git tracks or does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [PROJECT / name for name in names if name and (PROJECT / name).is_file()]

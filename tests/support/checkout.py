"""The checkout that is tested: where it is, and its files."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def tracked() -> list[Path]:
    """Every file of the checkout that is tracked or is going to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [PROJECT / name for name in names if name and (PROJECT / name).is_file()]

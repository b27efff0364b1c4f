"""The git commit of a checkout. Standard library only: the build of a wheel runs this before anything is installed."""

import os
import subprocess
from pathlib import Path

DIRTY = "-dirty"


def git_commit(checkout: Path) -> str | None:
    """Return the commit in hex, followed by `-dirty` if a file is changed or untracked. None without git."""
    if not (checkout / ".git").exists():  # the folder may be part of another project's checkout
        return None
    # Variables of a git command that runs this program name another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Root may build from the checkout of another user, and runs its code anyway.
    git = ["git", "-C", str(checkout), "-c", f"safe.directory={checkout}", "--no-optional-locks"]

    def output(*arguments: str) -> str:
        return subprocess.run([*git, *arguments], env=env, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return output("rev-parse", "--verify", "HEAD") + (DIRTY if output("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None

"""The version of this program, and the git commit that it runs from."""

import importlib.metadata
from dataclasses import dataclass

from osbuild import paths
from osbuild.errors import Error
from osbuild.run import run

DISTRIBUTION = "edge-osbuild"


@dataclass(frozen=True)
class Version:
    """`number` is the distribution's version; `commit` is None outside of a git checkout.

    `modified` says whether tracked files differ from the commit.
    """

    number: str
    commit: str | None = None
    modified: bool = False

    def __str__(self) -> str:
        if self.commit is None:
            return self.number
        return f"{self.number} (commit {self.commit[:12]}{', modified' if self.modified else ''})"


def version() -> Version:
    """The version of the installed distribution, and the commit if it runs from a git checkout."""
    number = importlib.metadata.version(DISTRIBUTION)
    if not (paths.PROJECT / ".git").exists():
        return Version(number)
    try:
        commit = git("rev-parse", "--verify", "HEAD")
        return Version(number, commit, bool(git("status", "--porcelain", "--untracked-files=no")))
    except Error:  # git is not installed, or refuses a checkout that belongs to another user
        return Version(number)


def git(*arguments: str) -> str:
    """Standard output of a git command in the checkout. Raises `Error`."""
    return run(["git", "--no-optional-locks", "-C", paths.PROJECT, *arguments]).strip()

"""The version of this program, and the git commit that it was made from."""

import importlib.metadata
from dataclasses import dataclass

from osbuild.host import paths
from osbuild.host.git_commit import DIRTY, git_commit

DISTRIBUTION = "edge-osbuild"
COMMIT = "commit"  # the file in `paths.SHIPPED`
SHORT = 12  # digits of a commit that are displayed


@dataclass(frozen=True)
class ProgramVersion:
    """`number` is the distribution's version. `commit` is None if nothing names the commit.

    `modified` says whether files differ from the commit, or are not part of it.
    """

    number: str
    commit: str | None = None
    modified: bool = False

    def __str__(self) -> str:
        if self.commit is None:
            return self.number
        return f"{self.number} (commit {self.commit[:SHORT]}{DIRTY if self.modified else ''})"


def read_version() -> ProgramVersion:
    """Return the version of the installed distribution, with the commit stored in the wheel or read from git."""
    stored = paths.SHIPPED / COMMIT
    text = stored.read_text().strip() if paths.INSTALLED else git_commit(paths.PROJECT) or ""
    commit, dirty, _ = text.partition(DIRTY)
    return ProgramVersion(importlib.metadata.version(DISTRIBUTION), commit or None, bool(dirty))

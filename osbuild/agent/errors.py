"""The error that the agent reports to its user."""

from osbuild.shared.errors import Error

# The hint for every error about a full data partition.
FREE = "free some space: delete data of pods or unused container images, or run `journalctl --vacuum-size=16M`"


class Problem(Error):
    """An operation failed. `message` says why, `where` names the file or command, `hint` says what to do next."""

    def lines(self) -> list[str]:
        """The lines to print: the problem, then the hint."""
        return [f"edge-agent: {self}", *([f"  {self.hint}"] if self.hint else [])]

    def details(self) -> tuple[str, ...]:
        """The problem and its hint, for a report to the update server."""
        return (str(self), self.hint) if self.hint else (str(self),)


class Busy(Problem):
    """An operation cannot begin now, but later: another one is in progress, or waits for a reboot or a verdict."""

"""Lines of RAUC's service in the journal, and the statistics of an installation in them."""

import os
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from osbuild.agent.command import CommandNotFinished, run_command

UNIT = "rauc.service"
PREFIX = re.compile(
    r"^(?:\(\w+:\d+\): )?rauc(?:-\w+)?-(?:Message|INFO|WARNING|CRITICAL|ERROR|DEBUG)(?: \*\*)?: [\d:.]+: "
)
# RAUC's statistics (src/stats.c). For a source of 4 KiB chunks, `count` is the number of lookups and `sum` the number
# of hits; `sum` is missing if there were no lookups. For downloads, `count` is requests and `sum` bytes.
COUNTS = re.compile(
    r"(zero chunk|target_slot_written|target_slot|active_slot|source_image|nbd dl_size)(?: \(reusing \w+\))?: "
    r"count=(\d+)(.*)"
)
SUM = re.compile(r" sum=([\d.]+)")
FALLBACK = "Continuing after adaptive mode error: "
CHUNK = 4096
STORED_LINES = 60


class JournalFollower:
    """New lines of RAUC without GLib's prefixes. Without a journal there are no lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.rest = b""

    def __enter__(self) -> "JournalFollower":
        command = ["journalctl", "--follow", "--lines=0", f"--unit={UNIT}", "--output=cat", "--quiet"]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            return self
        assert self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def read_lines(self) -> list[str]:
        """The lines since the start."""
        while self.process and self.process.stdout:
            try:
                data = os.read(self.process.stdout.fileno(), 65536)
            except BlockingIOError:
                break
            if not data:
                break
            *complete, self.rest = (self.rest + data).split(b"\n")
            self.lines += [PREFIX.sub("", line.decode(errors="replace")) for line in complete]
        return self.lines

    def read_all_lines(self, patience: float = 3.0) -> list[str]:
        """The lines since the start, after waiting up to `patience` seconds for the journal to receive all of them."""
        if self.process:
            try:
                subprocess.run(["journalctl", "--sync"], capture_output=True, timeout=30, check=False)
            except (OSError, subprocess.TimeoutExpired):
                return self.read_lines()
        end, count = time.monotonic() + patience, -1
        while count != len(self.read_lines()) and time.monotonic() < end:
            count = len(self.lines)
            time.sleep(0.3)
        return self.lines


@dataclass
class InstallStatistics:
    """Statistics of an installation. `fetched` is the number of bytes from the network, None if unknown.

    `chunks` counts 4 KiB blocks by their source: `zero`, `target_slot`, `active_slot`, `source_image` (the bundle).
    `fallback` is the reason why RAUC copied a whole image instead of working adaptively; empty if it did not.
    """

    fetched: int | None = None
    requests: int = 0
    chunks: dict[str, int] = field(default_factory=dict)
    fallback: str = ""

    @property
    def adaptive(self) -> bool | None:
        """Whether only missing blocks were taken from the bundle; None if unknown."""
        return False if self.fallback else (True if self.chunks else None)

    def to_json(self) -> dict[str, Any]:
        """The statistics for the history and for scripts."""
        statistics = {
            "fetched": self.fetched,
            "requests": self.requests,
            "chunks": self.chunks,
            "adaptive": self.adaptive,
        }
        return {**statistics, **({"fallback": self.fallback} if self.fallback else {})}

    def summary_line(self) -> str | None:
        """The statistics as one line of text; None if they are unknown."""
        if self.fallback:
            return f"copied the whole image, not adaptively: {self.fallback}"
        if not self.chunks:
            return None
        taken = self.chunks.get("source_image", 0)
        return f"adaptive: {taken} of {sum(self.chunks.values())} blocks of 4 KiB were taken from the bundle"


def read_statistics(lines: Iterable[str]) -> InstallStatistics:
    """The statistics in RAUC's lines about one or more installations."""
    statistics = InstallStatistics()
    for line in lines:
        if FALLBACK in line:
            statistics.fallback = line.partition(FALLBACK)[2].strip()
        elif match := COUNTS.search(line):
            name = match[1].replace("zero chunk", "zero").replace("target_slot_written", "target_slot")
            total = SUM.search(match[3])
            number = int(float(total[1])) if total else 0
            if name == "nbd dl_size":
                statistics.fetched = (statistics.fetched or 0) + number
                statistics.requests += int(match[2])
            else:
                statistics.chunks[name] = statistics.chunks.get(name, 0) + number
    return statistics


def recent_lines(lines: int = STORED_LINES) -> list[str]:
    """The last lines of RAUC in the journal, from any boot."""
    command = ["journalctl", f"--unit={UNIT}", f"--lines={lines}", "--output=short-iso", "--no-hostname", "--quiet"]
    try:
        result = run_command(command, timeout=30)
    except CommandNotFinished:
        return []
    return result.stdout.splitlines()

"""What RAUC's service writes to the journal, and what that says about an installation."""

import os
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

UNIT = "rauc.service"
PREFIX = re.compile(
    r"^(?:\(\w+:\d+\): )?rauc(?:-\w+)?-(?:Message|INFO|WARNING|CRITICAL|ERROR|DEBUG)(?: \*\*)?: [\d:.]+: "
)
# RAUC's statistics (src/stats.c). Of a source of chunks of 4 KiB `count` is how often it was asked, and `sum`, which is
# not there where it never was, how often it had the chunk; of downloads `count` is requests, and `sum` bytes.
COUNTS = re.compile(
    r"(zero chunk|target_slot_written|target_slot|active_slot|source_image|nbd dl_size)(?: \(reusing \w+\))?: "
    r"count=(\d+)(.*)"
)
SUM = re.compile(r" sum=([\d.]+)")
FALLBACK = "Continuing after adaptive mode error: "
CHUNK = 4096
KEPT = 60  # lines


class JournalFollower:
    """RAUC's lines from now on, without GLib's prefixes. Where there is no journal there are none."""

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
        """All lines so far."""
        while self.process and self.process.stdout:
            try:
                data = os.read(self.process.stdout.fileno(), 65536)
            except BlockingIOError:
                break
            if not data:
                break
            *whole, self.rest = (self.rest + data).split(b"\n")
            self.lines += [PREFIX.sub("", line.decode(errors="replace")) for line in whole]
        return self.lines

    def read_all_lines(self, patience: float = 3.0) -> list[str]:
        """All lines, after what is on its way to the journal has got there: it takes `patience` seconds at most."""
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
    """What was fetched and what was there already. `fetched` is bytes over the network, None where RAUC said nothing.

    `chunks` is where blocks of 4 KiB came from: `zero`, `target_slot`, `active_slot`, `source_image` (the bundle).
    `fallback` is why an image was copied whole although it could have been done adaptively.
    """

    fetched: int | None = None
    requests: int = 0
    chunks: dict[str, int] = field(default_factory=dict)
    fallback: str = ""

    @property
    def adaptive(self) -> bool | None:
        """Whether only what was missing was taken from the bundle; None where RAUC said nothing."""
        return False if self.fallback else (True if self.chunks else None)

    def to_json(self) -> dict[str, Any]:
        """For history and scripts."""
        found = {"fetched": self.fetched, "requests": self.requests, "chunks": self.chunks, "adaptive": self.adaptive}
        return {**found, **({"fallback": self.fallback} if self.fallback else {})}

    def summary_line(self) -> str | None:
        """For people."""
        if self.fallback:
            return f"copied whole, not adaptively: {self.fallback}"
        if not self.chunks:
            return None
        taken = self.chunks.get("source_image", 0)
        return f"adaptive: {taken} of {sum(self.chunks.values())} blocks of 4 KiB were taken from the bundle"


def read_statistics(lines: Iterable[str]) -> InstallStatistics:
    """Read them out of RAUC's lines about one installation or more."""
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


def recent_lines(lines: int = KEPT) -> list[str]:
    """RAUC's last lines in the journal, whatever boot they are of."""
    command = ["journalctl", f"--unit={UNIT}", f"--lines={lines}", "--output=short-iso", "--no-hostname", "--quiet"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()

"""Diagnostics of this device for an operator: a compressed archive of text files without secrets."""

import io
import os
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from osbuild.agent.fleet.cluster_state import describe_cluster
from osbuild.agent.fleet.redaction import hide_secrets, known_secrets
from osbuild.agent.system import System
from osbuild.shared.operator_requests import LARGEST_ARCHIVE

TIMEOUT = 60.0  # seconds for one program
LARGEST_OUTPUT = 2**20  # bytes of one program
JOURNAL_LIMITS = (8 * 2**20, 2 * 2**20, 2**19)  # bytes of the journal: fewer if the archive would be too large
JOURNAL = ("journalctl", "--reverse", "--no-pager", "--quiet", "--output=short-iso")  # journalctl(1)
# Names of files in the archive, and the programs whose output they contain.
PROGRAMS: Mapping[str, Sequence[str]] = {
    "explain.txt": ("edge-agent", "explain"),
    "status.json": ("edge-agent", "status", "--json"),
    "update-history.json": ("edge-agent", "update", "history", "--json"),
    "slots.txt": ("rauc", "status", "--detailed"),
    "units.txt": ("systemctl", "list-units", "--all", "--no-pager", "--plain"),
    "failed-units.txt": ("systemctl", "list-units", "--failed", "--no-pager", "--plain", "--full"),
    "file-systems.txt": ("df", "--print-type", "--human-readable"),
    "sizes.txt": ("du", "--one-file-system", "--max-depth=3", "--block-size=1M", "--threshold=1M", "/var"),
    "memory.txt": ("free", "--mebi"),
    "processes.txt": ("ps", "-e", "--sort=-rss", "-o", "pid,user,rss,pcpu,etime,comm"),  # arguments may be secrets
    "addresses.txt": ("ip", "-details", "address"),
    "routes.txt": ("ip", "route", "show", "table", "all"),
}  # fmt: skip


@dataclass(frozen=True)
class DiagnosticFile:
    """A file of the archive."""

    name: str
    text: str


def collect_diagnostics(system: System, programs: Mapping[str, Sequence[str]] = PROGRAMS) -> bytes:
    """Return the diagnostics as a tar archive in gzip. Its size may exceed the limit only without the journal."""
    secrets = known_secrets(system)
    files = [DiagnosticFile(name, read_program(command)) for name, command in programs.items()]
    files.append(DiagnosticFile("cluster.txt", describe_cluster(system)))
    clean = [DiagnosticFile(file.name, hide_secrets(file.text, secrets)) for file in files]
    for limit in JOURNAL_LIMITS:
        archive = pack_files([*clean, *read_journal(secrets, limit)])
        if len(archive) <= LARGEST_ARCHIVE:
            return archive
    return pack_files(clean)


def read_journal(secrets: frozenset[str], limit: int) -> list[DiagnosticFile]:
    """Return the newest lines of the journal of this boot and of the one before, at most `limit` bytes together."""
    files = []
    for name, boot, share in (("journal.txt", "0", limit * 3 // 4), ("journal-before.txt", "-1", limit // 4)):
        newest_first = read_program([*JOURNAL, f"--boot={boot}"], share)
        text = "\n".join(reversed(newest_first.splitlines()))
        files.append(DiagnosticFile(name, hide_secrets(text, secrets)))
    return files


def read_program(command: Sequence[str], limit: int = LARGEST_OUTPUT) -> str:
    """Return what a program prints, at most `limit` bytes, or why that is not known."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror}\n"

    def end_process() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it has started, which may hold its output open

    timer = threading.Timer(TIMEOUT, end_process)
    timer.start()
    with process:
        assert process.stdout is not None
        data = process.stdout.read(limit)
        if len(data) == limit:
            end_process()
        status = process.wait()
    timer.cancel()
    note = "" if status in (0, -signal.SIGKILL) else f"\n{command[0]} has ended with status {status}\n"
    return data.decode(errors="replace") + note


def pack_files(files: Sequence[DiagnosticFile]) -> bytes:
    """Return files as a tar archive in gzip."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for file in files:
            data = file.text.encode(errors="replace")
            entry = tarfile.TarInfo(f"diagnostics/{file.name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()

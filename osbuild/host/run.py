"""The one way in which this project starts other programs."""

import re
import shlex
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osbuild.host import log
from osbuild.shared.errors import Error

Argument = str | Path
CONTAINED = (
    "bwrap", "--die-with-parent", "--unshare-pid", "--cap-add", "ALL", "--dev-bind", "/", "/", "--proc", "/proc", "--",
)  # fmt: skip
CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]+@")


def hide_credentials(text: str) -> str:
    """`text` without user and password of the URLs in it."""
    return CREDENTIALS.sub("…@", text)


class ProcessGroup:
    """Programs that are ended together, after which none is started any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._over = False

    def start(self, words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start one. Raises `Error` where they have been ended, and `FileNotFoundError`."""
        with self._lock:
            if self._over:
                raise Error(f"{words[0]} is not started: what it is for was ended")
            process = subprocess.Popen(words, text=True, errors="replace", **options)
            self._running.add(process)
            return process

    def discard(self, process: subprocess.Popen[str]) -> None:
        """One has ended."""
        with self._lock:
            self._running.discard(process)

    def end(self) -> None:
        with self._lock:
            self._over = True
            for process in self._running:
                process.terminate()


_thread = threading.local()  # its `group` is that of the pool that a thread works for


class CommandError(Error):
    """A program ended with another status than 0; carries the end of what it said, without credentials in URLs."""

    def __init__(self, command: Sequence[str], status: int, output: str, hint: str | None) -> None:
        output, command = hide_credentials(output), [hide_credentials(word) for word in command]
        tail = "\n".join(output.strip().splitlines()[-30:])
        super().__init__(f"{shlex.join(command)}\n  ended with status {status}\n{tail}".rstrip(), hint=hint)
        self.returncode = status
        self.output = output


def run_command(
    command: Sequence[Argument],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    logfile: Path | None = None,
    hint: str | None = None,
    umask: int = -1,
) -> str:
    """Run `command` and return its standard output.

    `env` replaces the whole environment. With `logfile`, both output streams go to that file instead and the
    result is empty. `umask` is that of the program, -1 for that
    of this process. Raises `CommandError` on any status but 0
    and `Error` where the program is missing.
    """
    arguments = [str(word) for word in command]
    log.debug("$ " + hide_credentials(shlex.join(arguments)))
    try:
        if logfile is not None:
            with logfile.open("ab") as sink:
                status, _, _ = _finish(
                    arguments, None, cwd=cwd, env=env, stdout=sink, stderr=subprocess.STDOUT, umask=umask
                )
            if status:
                text = logfile.read_text(errors="replace")
                raise CommandError(arguments, status, text, hint or f"the whole log is in {logfile}")
            return ""
        status, output, said = _finish(
            arguments, input, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, umask=umask
        )
    except FileNotFoundError as error:
        raise Error(
            f"cannot start {arguments[0]}: {error.strerror}",
            hint=hint or "run `edge-osbuild doctor` to see what this host lacks",
        ) from error
    if said:
        log.debug(hide_credentials(said.rstrip()))
    if status:
        raise CommandError(arguments, status, output + said, hint)
    return output


def run_contained(command: Sequence[Argument], **options: Any) -> str:
    """Like `run_command`. Whatever the program starts ends with it, or with this process if that is killed (bwrap(1)).

    For programs of this host that start others: those in a tools tree run like that anyway.
    """
    try:
        return run_command([*CONTAINED, *command], **options)
    except CommandError as error:  # it names the command itself
        raise CommandError([str(word) for word in command], error.returncode, error.output, error.hint) from None


def _finish(arguments: Sequence[str], input: str | None, **options: Any) -> tuple[int, str, str]:
    """Status, standard output and standard error of a process; it ends when this function does, however that is."""
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    group: ProcessGroup = getattr(_thread, "group", None) or ProcessGroup()
    with group.start(arguments, stdin=stdin, **options) as process:
        try:
            output, said = process.communicate(input)
        except BaseException:
            process.kill()
            raise
        finally:
            group.discard(process)
    return process.returncode, output or "", said or ""


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for the time of a block. Left by an exception, it ends what they run, and has them start no more."""
    group = ProcessGroup()

    def join() -> None:
        _thread.group = group

    with ThreadPoolExecutor(initializer=join) as pool:
        try:
            yield pool
        except BaseException:
            group.end()
            raise

"""Runs other programs. Every subprocess of a build is started here."""

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
    """Programs that are terminated together. Afterwards no further program can be started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._over = False

    def start(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program. Raises `Error` if the group was terminated, and `FileNotFoundError`."""
        with self._lock:
            if self._over:
                raise Error(f"{arguments[0]} is not started: another part of this step has failed")
            process = subprocess.Popen(arguments, text=True, errors="replace", **options)
            self._running.add(process)
            return process

    def discard(self, process: subprocess.Popen[str]) -> None:
        """Forget a program that has ended."""
        with self._lock:
            self._running.discard(process)

    def end(self) -> None:
        with self._lock:
            self._over = True
            for process in self._running:
                process.terminate()


_thread = threading.local()  # `group`: the programs of the pool that the thread belongs to


class CommandError(Error):
    """A program exited with a nonzero status. `output` is its output, without credentials in URLs."""

    def __init__(self, command: Sequence[str], status: int, output: str, hint: str | None) -> None:
        output, command = hide_credentials(output), [hide_credentials(argument) for argument in command]
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

    `env` replaces the whole environment. With `logfile`, both output streams go to that file instead and the result
    is empty. `umask` is that of the program, -1 for that of this process. Raises `CommandError` for a nonzero
    status, and `Error` if the program is missing.
    """
    arguments = [str(argument) for argument in command]
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
        status, output, errors = _finish(
            arguments, input, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, umask=umask
        )
    except FileNotFoundError as error:
        raise Error(
            f"cannot start {arguments[0]}: {error.strerror}",
            hint=hint or "run `edge-osbuild doctor` to see which programs this host lacks",
        ) from error
    if errors:
        log.debug(hide_credentials(errors.rstrip()))
    if status:
        raise CommandError(arguments, status, output + errors, hint)
    return output


def run_contained(command: Sequence[Argument], **options: Any) -> str:
    """Like `run_command`, but all processes of the program end with it or with this process (bwrap(1)).

    For programs of the host that start others. Programs in a tools tree are contained anyway.
    """
    try:
        return run_command([*CONTAINED, *command], **options)
    except CommandError as error:  # it names the command itself
        raise CommandError(
            [str(argument) for argument in command], error.returncode, error.output, error.hint
        ) from None


def _finish(arguments: Sequence[str], input: str | None, **options: Any) -> tuple[int, str, str]:
    """Return status, standard output and standard error of a process. An exception kills the process."""
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    group: ProcessGroup = getattr(_thread, "group", None) or ProcessGroup()
    with group.start(arguments, stdin=stdin, **options) as process:
        try:
            output, errors = process.communicate(input)
        except BaseException:
            process.kill()
            raise
        finally:
            group.discard(process)
    return process.returncode, output or "", errors or ""


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for the duration of a block. An exception in the block terminates the programs of all threads."""
    group = ProcessGroup()

    def join() -> None:
        _thread.group = group

    with ThreadPoolExecutor(initializer=join) as pool:
        try:
            yield pool
        except BaseException:
            group.end()
            raise

"""The one way in which this project starts other programs."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from osbuild import log
from osbuild.errors import Error

Argument = str | Path


class CommandError(Error):
    """A program ended with another status than 0; carries the end of what it said."""

    def __init__(self, command: Sequence[str], status: int, output: str, hint: str | None) -> None:
        tail = "\n".join(output.strip().splitlines()[-30:])
        super().__init__(f"{shlex.join(command)}\n  ended with status {status}\n{tail}".rstrip(), hint=hint)
        self.returncode = status
        self.output = output


def run(
    command: Sequence[Argument],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    logfile: Path | None = None,
    hint: str | None = None,
    shown: Sequence[Argument] | None = None,
) -> str:
    """Run `command` and return its standard output.

    `env` replaces the whole environment. With `logfile`, both output streams go to that file instead and the
    result is empty. `shown` is what an error names instead of `command`. Raises `CommandError` on any status but 0
    and `Error` where the program is missing.
    """
    words = [str(word) for word in command]
    named = [str(word) for word in shown or command]
    log.debug("$ " + shlex.join(words))
    stdin = subprocess.DEVNULL if input is None else None
    try:
        if logfile is not None:
            with logfile.open("ab") as sink:
                done = subprocess.run(
                    words, cwd=cwd, env=env, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                )
            if done.returncode:
                text = logfile.read_text(errors="replace")
                raise CommandError(named, done.returncode, text, hint or f"the whole log is in {logfile}")
            return ""
        result = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            input=input,
            stdin=stdin,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise Error(
            f"cannot start {words[0]}: {error.strerror}",
            hint=hint or "run `edge-osbuild doctor` to see what this host lacks",
        ) from error
    if result.stderr:
        log.debug(result.stderr.rstrip())
    if result.returncode:
        raise CommandError(named, result.returncode, result.stdout + result.stderr, hint)
    return result.stdout

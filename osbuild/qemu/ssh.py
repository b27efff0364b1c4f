"""Commands in the guest, by the OpenSSH client."""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from osbuild.host.run import run_command
from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.qemu.serial import guess_reason, last_lines
from osbuild.shared.errors import Error

CONNECTION_LOST = 255  # ssh(1), EXIT STATUS
# Seconds for one attempt to connect. What is sent before a guest has a network may be lost, so they begin short; an
# emulated small board on a busy host needs most of the last ones for one handshake.
FIRST_ATTEMPT = 20.0
LAST_ATTEMPT = 120.0


@dataclass(frozen=True)
class KeyPair:
    """An SSH key: `private` is its file, `public` its line for authorized_keys."""

    private: Path
    public: str

    @classmethod
    def generate(cls, folder: Path, comment: str = "edge-osbuild") -> "KeyPair":
        """Make an ed25519 key `folder/id_ed25519`, or read the one that is there (ssh-keygen(1))."""
        private = folder / "id_ed25519"
        if not private.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            run_command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", private])
        return cls(private, private.with_name("id_ed25519.pub").read_text().strip())


@dataclass(frozen=True)
class CompletedOutput:
    """A command that has run in the guest; `status` as the shell gives it."""

    command: str
    status: int
    stdout: str
    stderr: str


class CommandFailed(Error):
    """A command in the guest ended with another status than 0; `result` has all of it."""

    def __init__(self, result: CompletedOutput) -> None:
        said = "\n".join((result.stdout + result.stderr).strip().splitlines()[-30:])
        super().__init__(f"in the guest: {result.command}\n  ended with status {result.status}\n{said}".rstrip())
        self.result = result


class NoConnection(Error):
    """The guest cannot be reached by SSH, or no longer."""


class Guest:
    """One user's way into a guest. The first command connects, all others share that connection (ControlMaster).

    Reads nothing of the user's SSH configuration and knows no hosts: the guest made its host key a minute ago, and
    the way to it is a port on 127.0.0.1 that belongs to its QEMU.
    """

    def __init__(
        self,
        *,
        port: Callable[[], int],
        user: str,
        key: Path,
        folder: Path,
        alive: Callable[[], None] = lambda: None,
        console: Callable[[], str] = str,
    ) -> None:
        """`port` gives the port on 127.0.0.1; `folder` is where the control socket goes; `alive` raises if off.

        `console` gives what the guest's console has said, for the error when it never gets ready.
        """
        self._port = port
        self._user = user
        self._key = key
        self._control = folder / f"ssh-{user}"
        self._alive = alive
        self._console = console

    def options(self, connect: float) -> list[str]:
        """Options of ssh(1) that reach this guest, without the port; it has `connect` seconds to answer."""
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": str(max(1, int(connect))),
            "ControlPath": str(self._control),
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": "10",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        options = ["-F", "none", "-i", str(self._key)]
        for name, value in settings.items():
            options += ["-o", f"{name}={value}"]
        return options

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60.0,
        input: str | None = None,
    ) -> CompletedOutput:
        """Run `command`, a line for the user's shell or an argument list, for at most `timeout` seconds.

        Raises `CommandFailed` on any status but 0, if `check`; `NoConnection`; `TimedOut` (the command then goes on
        in the guest).
        """
        line = command if isinstance(command, str) else shlex.join(command)
        status, stdout, stderr = self._exchange(line, timeout, None if input is None else input.encode())
        result = CompletedOutput(line, status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
        if check and status:
            raise CommandFailed(result)
        return result

    def wait_ready(self, timeout: float) -> None:
        """Wait until commands can be run. Raises `NoConnection` after `timeout` seconds, `Error` if the guest dies."""
        deadline, patience = Deadline(timeout), FIRST_ATTEMPT
        while True:
            self._alive()
            try:
                self.run("true", timeout=max(1.0, min(patience, deadline.remaining)))
                return
            except (NoConnection, TimedOut) as error:
                if deadline.passed:
                    said = self._console()
                    message = f"no SSH within {timeout:.3g} s: {error.message}\n{last_lines(said)}".rstrip()
                    raise NoConnection(message, hint=error.hint or guess_reason(said)) from error
                self.disconnect()
                patience = min(2 * patience, LAST_ATTEMPT)
            deadline.pause(0.5)

    def put(self, source: Path | bytes, target: str, *, mode: int = 0o644, timeout: float = 120.0) -> None:
        """Copy a file, or some bytes, to the path `target` of the guest. Needs no SFTP server there."""
        data = source if isinstance(source, bytes) else source.read_bytes()
        path = shlex.quote(target)
        status, _, stderr = self._exchange(f"cat > {path} && chmod {mode:o} {path}", timeout, data)
        if status:
            raise Error(f"cannot write {target} in the guest: {stderr.decode(errors='replace').strip()}")

    def get(self, source: str, target: Path, *, timeout: float = 120.0) -> None:
        """Copy the guest's file `source` to `target`."""
        status, stdout, stderr = self._exchange(f"cat {shlex.quote(source)}", timeout, None)
        if status:
            raise Error(f"cannot read {source} in the guest: {stderr.decode(errors='replace').strip()}")
        target.write_bytes(stdout)

    def reboot(self, timeout: float) -> None:
        """Ask the guest to boot again (as root, or with sudo), and wait until it answers as another boot."""
        deadline = Deadline(timeout)
        before = self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
        prefix = "" if self._user == "root" else "sudo "
        # the connection may die before ssh has heard of success
        self.run(f"{prefix}systemctl reboot", check=False)
        while True:
            self.disconnect()
            self.wait_ready(deadline.remaining)
            try:
                if self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != before:
                    return
            except NoConnection:
                pass  # that was the old boot's last breath
            if deadline.passed:
                raise TimedOut(f"the guest has not rebooted within {timeout:g} s")
            deadline.pause(0.5)

    def disconnect(self) -> None:
        """Forget the shared connection; the next command makes a new one."""
        if self._control.exists():
            self._ssh(["-O", "exit"], "", 10.0)
            self._control.unlink(missing_ok=True)

    def _exchange(self, line: str, timeout: float, data: bytes | None) -> tuple[int, bytes, bytes]:
        deadline = Deadline(timeout)
        if not self._control.exists():
            self._connect(deadline.remaining)
        status, stdout, stderr = self._ssh([], line, deadline.remaining, data)
        if status == CONNECTION_LOST and not self._connected():
            self._alive()
            raise NoConnection(
                f"the connection broke during: {line}\n{stderr.decode(errors='replace').strip()}".rstrip(),
                hint="did the guest reboot?",
            )
        return status, stdout, stderr

    def _connect(self, timeout: float) -> None:
        # -f returns once the connection stands. Its master keeps standard error open: a file, for a pipe would never
        # come to its end.
        said = self._control.with_suffix(".log")
        command = ["ssh", *self.options(timeout), "-p", str(self._port()), "-f", "-N", "-M", f"{self._user}@127.0.0.1"]
        try:
            with said.open("wb") as log:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=max(1.0, timeout)
                )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"no SSH connection within {timeout:.3g} s") from error
        except FileNotFoundError as error:
            raise Error("cannot start ssh", hint="install Debian's package openssh-client") from error
        if done.returncode:
            reason = said.read_text(errors="replace").strip() or f"status {done.returncode}"
            hint = "is this key in the guest's seed?" if "Permission denied" in reason else None
            raise NoConnection(f"no SSH connection as {self._user}: {reason}", hint=hint)

    def _connected(self) -> bool:
        return self._control.exists() and self._ssh(["-O", "check"], "", 10.0)[0] == 0

    def _ssh(
        self, options: list[str], line: str, timeout: float, data: bytes | None = None
    ) -> tuple[int, bytes, bytes]:
        """Talk to the running master, and to nobody else: without one, ssh would try port 22 of this very host."""
        command = [
            "ssh",
            *self.options(timeout),
            "-o",
            "ProxyCommand=false",
            *options,
            f"{self._user}@127.0.0.1",
            *([line] if line else []),
        ]
        try:
            done = subprocess.run(
                command,
                input=b"" if data is None else data,
                capture_output=True,
                timeout=max(1.0, timeout),
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"in the guest: not done within {timeout:.3g} s: {line}") from error
        return done.returncode, done.stdout, done.stderr

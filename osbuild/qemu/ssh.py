"""Runs commands in the guest with the OpenSSH client."""

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
# Timeout of one connection attempt in seconds. The first attempts are short, because packets before the guest has a
# network may be lost. The last ones are long, because an emulated board on a busy host needs that for one handshake.
FIRST_ATTEMPT = 20.0
LAST_ATTEMPT = 120.0


@dataclass(frozen=True)
class KeyPair:
    """An SSH key. `private` is its file, `public` its line for authorized_keys."""

    private: Path
    public: str

    @classmethod
    def generate(cls, folder: Path, comment: str = "edge-osbuild") -> "KeyPair":
        """Generate an ed25519 key `folder/id_ed25519`, or read an existing one (ssh-keygen(1)). Raises `Error`."""
        private = folder / "id_ed25519"
        if not private.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            run_command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", private])
        return cls(private, private.with_name("id_ed25519.pub").read_text().strip())


@dataclass(frozen=True)
class CompletedOutput:
    """A command that has run in the guest, with the shell's exit status."""

    command: str
    status: int
    stdout: str
    stderr: str


class CommandFailed(Error):
    """A command in the guest ended with a status other than 0. `result` has its whole output."""

    def __init__(self, result: CompletedOutput) -> None:
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-30:])
        super().__init__(f"in the guest: {result.command}\n  ended with status {result.status}\n{tail}".rstrip())
        self.result = result


class NoConnection(Error):
    """The SSH connection to the guest failed or broke."""


@dataclass(frozen=True)
class GuestMachine:
    """The machine of a guest. `port` returns the port on 127.0.0.1, `alive` raises if the guest is off.

    `console` returns the output of the guest's console, for errors.
    """

    port: Callable[[], int]
    alive: Callable[[], None] = lambda: None
    console: Callable[[], str] = str


class Guest:
    """SSH access to a guest as one user. All commands share the connection of the first one (ControlMaster).

    The user's SSH configuration is not read, and host keys are not checked: the guest has just created its host key,
    and the port on 127.0.0.1 belongs to its QEMU.
    """

    def __init__(self, machine: GuestMachine, *, user: str, key: Path, folder: Path) -> None:
        """`folder` is for the control socket."""
        self._machine = machine
        self._user = user
        self._key = key
        self._control = folder / f"ssh-{user}"

    def options(self, connect: float) -> list[str]:
        """Return options of ssh(1) for this guest, without the port, with a timeout of `connect` seconds."""
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
        """Run `command`, a line for the user's shell or an argument list.

        Raises `CommandFailed` for a status other than 0, if `check`; `NoConnection`; and `TimedOut` after `timeout`
        seconds, while the command may continue in the guest.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        status, stdout, stderr = self._exchange(line, timeout, None if input is None else input.encode())
        result = CompletedOutput(line, status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
        if check and status:
            raise CommandFailed(result)
        return result

    def wait_ready(self, timeout: float) -> None:
        """Wait until commands can be run. Raises `NoConnection` after `timeout` seconds, `Error` if the guest ends."""
        deadline, attempt_timeout = Deadline(timeout), FIRST_ATTEMPT
        while True:
            self._machine.alive()
            try:
                self.run("true", timeout=max(1.0, min(attempt_timeout, deadline.remaining)))
                return
            except (NoConnection, TimedOut) as error:
                if deadline.passed:
                    console = self._machine.console()
                    message = f"no SSH within {timeout:.3g} s: {error.message}\n{last_lines(console)}".rstrip()
                    raise NoConnection(message, hint=error.hint or guess_reason(console)) from error
                self.disconnect()
                attempt_timeout = min(2 * attempt_timeout, LAST_ATTEMPT)
            deadline.pause(0.5)

    def put(self, source: Path | bytes, target: str, *, mode: int = 0o644, timeout: float = 120.0) -> None:
        """Copy a file or bytes to the path `target` in the guest, without SFTP. Raises `Error`."""
        data = source if isinstance(source, bytes) else source.read_bytes()
        path = shlex.quote(target)
        status, _, stderr = self._exchange(f"cat > {path} && chmod {mode:o} {path}", timeout, data)
        if status:
            raise Error(f"cannot write {target} in the guest: {stderr.decode(errors='replace').strip()}")

    def get(self, source: str, target: Path, *, timeout: float = 120.0) -> None:
        """Copy the guest's file `source` to `target`. Raises `Error`."""
        status, stdout, stderr = self._exchange(f"cat {shlex.quote(source)}", timeout, None)
        if status:
            raise Error(f"cannot read {source} in the guest: {stderr.decode(errors='replace').strip()}")
        target.write_bytes(stdout)

    def reboot(self, timeout: float) -> None:
        """Reboot the guest (as root or with sudo), and wait until commands run in the new boot. Raises `TimedOut`."""
        deadline = Deadline(timeout)
        before = self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
        prefix = "" if self._user == "root" else "sudo "
        # the connection may break before ssh gets the result
        self.run(f"{prefix}systemctl reboot", check=False)
        while True:
            self.disconnect()
            self.wait_ready(deadline.remaining)
            try:
                if self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != before:
                    return
            except NoConnection:
                pass  # the old boot has just ended
            if deadline.passed:
                raise TimedOut(f"the guest has not rebooted within {timeout:g} s")
            deadline.pause(0.5)

    def disconnect(self) -> None:
        """Close the shared connection. The next command opens a new one."""
        if self._control.exists():
            self._ssh(["-O", "exit"], "", 10.0)
            self._control.unlink(missing_ok=True)

    def _exchange(self, line: str, timeout: float, data: bytes | None) -> tuple[int, bytes, bytes]:
        deadline = Deadline(timeout)
        if not self._control.exists():
            self._connect(deadline.remaining)
        status, stdout, stderr = self._ssh([], line, deadline.remaining, data)
        if status == CONNECTION_LOST and not self._connected():
            self._machine.alive()
            raise NoConnection(
                f"the connection broke during: {line}\n{stderr.decode(errors='replace').strip()}".rstrip(),
                hint="the guest may have rebooted",
            )
        return status, stdout, stderr

    def _connect(self, timeout: float) -> None:
        # -f returns when the connection is open. Its master keeps standard error open, so that must be a file: reading
        # a pipe would never end.
        output = self._control.with_suffix(".log")
        command = [
            "ssh",
            *self.options(timeout),
            "-p",
            str(self._machine.port()),
            "-f",
            "-N",
            "-M",
            f"{self._user}@127.0.0.1",
        ]
        try:
            with output.open("wb") as log:
                completed = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=max(1.0, timeout)
                )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"no SSH connection within {timeout:.3g} s") from error
        except FileNotFoundError as error:
            raise Error("cannot start ssh", hint="install Debian's package openssh-client") from error
        if completed.returncode:
            reason = output.read_text(errors="replace").strip() or f"status {completed.returncode}"
            hint = "check that this key is in the guest's seed" if "Permission denied" in reason else None
            raise NoConnection(f"no SSH connection as {self._user}: {reason}", hint=hint)

    def _connected(self) -> bool:
        return self._control.exists() and self._ssh(["-O", "check"], "", 10.0)[0] == 0

    def _ssh(
        self, options: list[str], line: str, timeout: float, data: bytes | None = None
    ) -> tuple[int, bytes, bytes]:
        """Run a command through the running master only. Without it, ssh would connect to port 22 of this host."""
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
            completed = subprocess.run(
                command,
                input=b"" if data is None else data,
                capture_output=True,
                timeout=max(1.0, timeout),
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"in the guest: timed out after {timeout:.3g} s: {line}") from error
        return completed.returncode, completed.stdout, completed.stderr

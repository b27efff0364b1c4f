"""A virtual machine: power, console, network, and cleanup."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from osbuild.qemu.acceleration import Accelerator, choose_accelerator
from osbuild.qemu.bad_sectors import KINDS, BadSectors
from osbuild.qemu.command import command_line
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.deadline import TimedOut
from osbuild.qemu.emulator import HOST_EMULATOR, Emulator
from osbuild.qemu.files import DISK, image_identity, locked_log, prepare_files
from osbuild.qemu.network_card import NetworkCard
from osbuild.qemu.qmp import Event
from osbuild.qemu.serial import Console, SerialLine, last_lines
from osbuild.qemu.session import Session
from osbuild.qemu.ssh import Guest, GuestMachine, KeyPair
from osbuild.shared.errors import Error


class Machine:
    """A machine that `with` powers on. At the end of the block, QEMU, its sockets and temporary files are removed.

    `log` is the path of a permanent serial log. `workdir` is the parent of the temporary folder, which stores disk
    writes (default: $TMPDIR or /var/tmp). `emulator` is QEMU, by default that of this host.
    """

    def __init__(
        self,
        config: MachineConfig,
        *,
        log: Path | None = None,
        workdir: Path | None = None,
        emulator: Emulator = HOST_EMULATOR,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config
        self.console: Console
        self._log = log.absolute() if log else None
        self._workdir = (workdir or Path(os.environ.get("TMPDIR", "/var/tmp"))).absolute()
        self._emulator = emulator
        self._accelerator = accelerator
        self._guests: list[Guest] = []

    def __enter__(self) -> "Machine":
        qemu = self._emulator
        if self._accelerator is None:
            self._accelerator = choose_accelerator(self.config.board, wrap=qemu.wrap, root=qemu.root)
        with ExitStack() as stack:
            self._session = Session(self._workdir)
            stack.callback(self._session.close)
            stack.callback(self._forget_guests)
            self._network_card = NetworkCard(self._session, self.config)
            self._image_state = image_identity(self.config.image)
            log = self._log or self.folder / "console.log"
            stack.enter_context(locked_log(log))
            self._files = prepare_files(self.config, self.folder, log, wrap=qemu.wrap, root=qemu.root)
            self.console = Console(self._files.log, self.check_alive)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.config.persist and self._has_sd_card and self.running:
            with suppress(Error):  # must not hide an earlier error
                self._flush_sd_card()
        self._stack.close()

    # --- power

    @property
    def folder(self) -> Path:
        """The machine's private folder, which is removed at its end."""
        return self._session.folder

    @property
    def running(self) -> bool:
        """Whether QEMU runs (the guest may hang)."""
        return self._session.running

    def check_alive(self) -> None:
        """Raise `Error` with QEMU's last output if the machine is off."""
        try:
            self._session.check_alive()
        except Error as error:
            error.hint = error.hint or f"the console's log is in {self._files.log}"
            raise

    def boot_again(self, state: str | None = None) -> None:
        """Power on after a power cut or a shutdown, with the same disks, UEFI variables and network.

        With `state`, continue from the state that `save` has stored under that name; see `load`. Raises `Error`.
        """
        if self.running:
            raise Error("the machine is on already", hint="call power_cut() or shutdown() first")
        self._forget_guests()
        self._session.disconnect()
        self.console.skip()
        self._start(state)

    def power_cut(self) -> None:
        """Cut the power. Data that the guest has not flushed is lost, except on an SD card, which has no flush."""
        if self._has_sd_card and self.running:
            self._flush_sd_card()
        self._session.kill()
        self._forget_guests()

    def reset(self) -> None:
        """Press the reset button and wait for the reset."""
        self.console.skip()
        self.qmp("system_reset")
        self.wait_for_event("RESET", 30, matching={"reason": "host-qmp-system-reset"})
        self._forget_guests()

    def shutdown(self, timeout: float = 120.0) -> None:
        """Press the power button (ACPI) and wait until the guest is off. A guest that still boots may ignore it."""
        self.qmp("system_powerdown")
        self.wait_off(timeout)

    def wait_off(self, timeout: float) -> None:
        """Wait until the guest has shut down. Raises `TimedOut` after `timeout` seconds."""
        try:
            self._session.wait_off(timeout)
        except TimedOut:
            message = f"the guest has not shut down within {timeout:g} s\n{last_lines(self.console.text)}"
            raise TimedOut(message, hint=f"the whole log is in {self.console.path}") from None
        self._forget_guests()

    # --- talking to QEMU

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Run a QMP command and return its result. Underscores in argument names become hyphens."""
        self.check_alive()
        return self._session.qmp(command, **arguments)

    def wait_for_event(self, name: str, timeout: float, *, matching: Mapping[str, Any] | None = None) -> Event:
        """Return the oldest event `name` of this boot that was not returned before; see `Monitor.wait_for_event`."""
        return self._session.wait_for_event(name, timeout, matching=matching)

    @property
    def events(self) -> list[Event]:
        """Every QMP event since the machine was last powered on."""
        return self._session.events

    def save(self, name: str) -> None:
        """Store memory and first disk as the saved state `name` in the qcow2 file of the disk, and the UEFI variables.

        Not for a disk whose writes are logged, because the log can't be reverted.
        """
        self._job("snapshot-save", tag=name, vmstate=DISK, devices=[DISK])
        if self._files.vars:
            shutil.copyfile(self._files.vars, self._saved_vars(name))

    def load(self, name: str) -> None:
        """Return to a saved state of this machine. Further disks and connections are not restored."""
        self._restore(name)
        self._forget_guests()
        self.console.skip()

    def break_sectors(self, offsets: Sequence[int], *, disk: str = "disk1", kinds: Sequence[str] = KINDS) -> None:
        """Let requests of `kinds` (read, write) to the sectors at `offsets`, in bytes, of a raw disk fail with EIO."""
        if disk not in self._damage:
            drive = next(drive for drive in self._files.drives if drive.name == disk)
            self._damage[disk] = BadSectors(self._session, drive)
        self._damage[disk].set(offsets, kinds)

    def mend_sectors(self, disk: str = "disk1") -> None:
        """Let all requests to a disk succeed again."""
        if disk in self._damage:
            self._damage[disk].clear()

    # --- console and network

    @property
    def line(self) -> SerialLine:
        """The serial line of the console."""
        self.check_alive()
        return self._session.line

    def send(self, text: str) -> None:
        """Type `text` at the serial console."""
        self.line.send(text)

    def plug_network(self, network: MachineNetwork | None = None) -> None:
        """Plug in a network card, by default the configured one, or one with default settings."""
        self._network_card.plug(network)

    def unplug_network(self, timeout: float = 30.0) -> None:
        """Unplug the network card. Raises `TimedOut` if the guest does not release it within `timeout` seconds."""
        self._network_card.unplug(timeout)
        self._forget_guests()

    def set_link(self, up: bool) -> None:
        """Connect or disconnect the network cable of the card."""
        self._network_card.set_link(up)

    def port(self, guest: int) -> int:
        """Return the port on 127.0.0.1 that is forwarded to TCP port `guest` of the guest."""
        return self._network_card.port(guest)

    def guest(self, user: str, key: KeyPair | Path) -> Guest:
        """Return SSH access as `user` with a key pair or private key file. Port 22 must be forwarded."""
        private = key.private if isinstance(key, KeyPair) else key
        guest = Guest(
            GuestMachine(lambda: self.port(22), self.check_alive, lambda: self.console.text),
            user=user,
            key=private,
            folder=self.folder,
        )
        self._guests.append(guest)
        return guest

    # --- internals

    def _start(self, state_name: str | None = None) -> None:
        assert self._accelerator is not None
        if image_identity(self.config.image) != self._image_state:
            raise Error(
                "the image was replaced while a machine was using it: the machine's changes do not match it any more",
                where=str(self.config.image),
                hint="start again, and don't build an image while its tests run",
            )
        config = replace(self.config, network=self._network_card.network)
        paths = [self.folder, *self._files.visible(config, self._accelerator)]
        command = self._emulator.wrap(command_line(config, self._files, self._accelerator), paths)
        self._damage: dict[str, BadSectors] = {}
        self._session.start(command, lambda: self._restore(state_name) if state_name else None)

    def _restore(self, name: str) -> None:
        self._job("snapshot-load", tag=name, vmstate=DISK, devices=[DISK])
        # QEMU has the variables in the memory that it has just loaded, and writes only later changes to the file.
        if self._files.vars:
            with self._saved_vars(name).open("rb") as saved, self._files.vars.open("r+b") as file:
                shutil.copyfileobj(saved, file)

    def _saved_vars(self, name: str) -> Path:
        return self.folder / f"vars-{name}.fd"

    @property
    def _has_sd_card(self) -> bool:
        return self.config.board.qemu.disk == "sd" and bool(self._files.drives)

    def _flush_sd_card(self) -> None:
        """Let QEMU write the cached tables of a qcow2 file, because no guest flushes an SD card."""
        card = self._files.drives[0]
        self.qmp("stop")
        output = self.qmp("human-monitor-command", command_line=f"qemu-io {card.name} flush")
        if output.strip():
            raise Error(f"the SD card's file cannot be written: {output.strip()}", where=str(card.path))

    def _job(self, command: str, **arguments: Any) -> None:
        name = f"{command}-{arguments['tag']}"
        self.qmp(command, job_id=name, **arguments)
        self.wait_for_event("JOB_STATUS_CHANGE", 300, matching={"id": name, "status": "concluded"})
        (job,) = [job for job in self.qmp("query-jobs") if job["id"] == name]
        self.qmp("job-dismiss", id=name)
        if "error" in job:
            raise Error(f"{command} {arguments['tag']} failed: {job['error']}")

    def _forget_guests(self) -> None:
        for guest in self._guests:
            guest.disconnect()

"""A virtual machine, from power on to nothing left of it."""

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
from osbuild.qemu.config import MachineConfig, MachineNetwork, Wrap, run_directly
from osbuild.qemu.deadline import TimedOut
from osbuild.qemu.files import DISK, image_identity, own_log, prepare_files
from osbuild.qemu.network_card import NetworkCard
from osbuild.qemu.qmp import Event
from osbuild.qemu.serial import Console, SerialLine, last_lines
from osbuild.qemu.session import Session
from osbuild.qemu.ssh import Guest, KeyPair
from osbuild.shared.errors import Error


class Machine:
    """Powered on by `with`; at its end QEMU, its sockets and its temporary files are gone, whatever happened.

    `log` keeps the serial log after that. `workdir` is where the temporary folder is made (default: $TMPDIR or
    /var/tmp; disk writes go there). `wrap` makes QEMU run elsewhere, in a root whose path on this host is `root`.
    """

    def __init__(
        self,
        config: MachineConfig,
        *,
        log: Path | None = None,
        workdir: Path | None = None,
        wrap: Wrap = run_directly,
        root: Path = Path("/"),
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config
        self.console: Console
        self._log = log.absolute() if log else None
        self._workdir = (workdir or Path(os.environ.get("TMPDIR", "/var/tmp"))).absolute()
        self._wrap = wrap
        self._root = root
        self._accelerator = accelerator
        self._guests: list[Guest] = []

    def __enter__(self) -> "Machine":
        if self._accelerator is None:
            self._accelerator = choose_accelerator(self.config.board, wrap=self._wrap, root=self._root)
        with ExitStack() as stack:
            self._session = Session(self._workdir)
            stack.callback(self._session.close)
            stack.callback(self._forget_guests)
            self._network_card = NetworkCard(self._session, self.config)
            self._image_state = image_identity(self.config.image)
            log = self._log or self.folder / "console.log"
            stack.enter_context(own_log(log))
            self._files = prepare_files(self.config, self.folder, log, wrap=self._wrap, root=self._root)
            self.console = Console(self._files.log, self.check_alive)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.config.persist and self._has_sd_card and self.running:
            with suppress(Error):  # the machine's end must not hide what went wrong before
                self._flush_sd_card()
        self._stack.close()

    # --- power

    @property
    def folder(self) -> Path:
        """The machine's private folder, gone at its end."""
        return self._session.folder

    @property
    def running(self) -> bool:
        """QEMU is there (the guest may still hang)."""
        return self._session.running

    def check_alive(self) -> None:
        """Raise `Error`, with what QEMU said last, if the machine is off."""
        try:
            self._session.check_alive()
        except Error as error:
            error.hint = error.hint or f"the console's log is in {self._files.log}"
            raise

    def boot_again(self, state: str | None = None) -> None:
        """Power on after a power cut or a shutdown: same disks, same UEFI variables, network as last plugged.

        With `state` it does not boot, but goes on from what `save` has kept under that name; see `load`.
        """
        if self.running:
            raise Error("the machine is on already", hint="call power_cut() or shutdown() first")
        self._forget_guests()
        self._session.disconnect()
        self.console.skip()
        self._start(state)

    def power_cut(self) -> None:
        """Pull the plug: what the guest has not flushed is lost; of an SD card, which knows no flush, nothing is."""
        if self._has_sd_card and self.running:
            self._flush_sd_card()
        self._session.kill()
        self._forget_guests()

    def reset(self) -> None:
        """Press the reset button; returns when the reset has happened."""
        self.console.skip()
        self.qmp("system_reset")
        self.wait_for_event("RESET", 30, matching={"reason": "host-qmp-system-reset"})
        self._forget_guests()

    def shutdown(self, timeout: float = 120.0) -> None:
        """Press the power button (ACPI), wait until the guest is off. A guest that still boots may not listen yet."""
        self.qmp("system_powerdown")
        self.wait_off(timeout)

    def wait_off(self, timeout: float) -> None:
        """Wait until the guest has switched itself off. Raises `TimedOut` after `timeout` seconds."""
        try:
            self._session.wait_off(timeout)
        except TimedOut:
            message = f"the guest was not off within {timeout:g} s\n{last_lines(self.console.text)}"
            raise TimedOut(message, hint=f"the whole log is in {self.console.path}") from None
        self._forget_guests()

    # --- talking to QEMU

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Run a QMP command; underscores in argument names stand for hyphens. Returns its `return` value."""
        self.check_alive()
        return self._session.qmp(command, **arguments)

    def wait_for_event(self, name: str, timeout: float, *, matching: Mapping[str, Any] | None = None) -> Event:
        """The oldest event `name` of this boot that was not returned before; see `Monitor.wait_for_event`."""
        return self._session.wait_for_event(name, timeout, matching=matching)

    @property
    def events(self) -> list[Event]:
        """Every QMP event since the machine was last powered on."""
        return self._session.events

    def save(self, name: str) -> None:
        """Keep the whole state under `name`: memory and first disk, inside the disk's overlay; UEFI variables beside.

        Not for a disk whose writes are logged: the log can't be taken back.
        """
        self._job("snapshot-save", tag=name, vmstate=DISK, devices=[DISK])
        if self._files.vars:
            shutil.copyfile(self._files.vars, self._kept_vars(name))

    def load(self, name: str) -> None:
        """Go back to a state of this machine. Not brought back: further disks, connections."""
        self._restore(name)
        self._forget_guests()
        self.console.skip()

    def break_sectors(self, places: Sequence[int], *, disk: str = "disk1", kinds: Sequence[str] = KINDS) -> None:
        """From now on requests of `kinds` (read, write) to sectors at `places`, in bytes, of a raw disk fail (EIO)."""
        if disk not in self._damage:
            drive = next(each for each in self._files.drives if each.name == disk)
            self._damage[disk] = BadSectors(self._session, drive)
        self._damage[disk].set(places, kinds)

    def mend_sectors(self, disk: str = "disk1") -> None:
        """Every sector of a disk is good again."""
        if disk in self._damage:
            self._damage[disk].clear()

    # --- console and network

    @property
    def line(self) -> SerialLine:
        """The serial console's wire."""
        self.check_alive()
        return self._session.line

    def send(self, text: str) -> None:
        """Type `text` at the serial console."""
        self.line.send(text)

    def plug_network(self, network: MachineNetwork | None = None) -> None:
        """Plug a network card in; by default the one that the machine was made with, or a plain one."""
        self._network_card.plug(network)

    def unplug_network(self, timeout: float = 30.0) -> None:
        """Pull the network card; the guest has `timeout` seconds to let it go. Raises `TimedOut` if it does not."""
        self._network_card.unplug(timeout)
        self._forget_guests()

    def set_link(self, up: bool) -> None:
        """Plug or pull the network cable; the card stays."""
        self._network_card.set_link(up)

    def port(self, guest: int) -> int:
        """The port on 127.0.0.1 that leads to TCP port `guest` of the guest."""
        return self._network_card.port(guest)

    def guest(self, user: str, key: KeyPair | Path) -> Guest:
        """SSH to the guest as `user` with a key pair or private key file; needs the forward of port 22."""
        private = key.private if isinstance(key, KeyPair) else key
        guest = Guest(
            port=lambda: self.port(22),
            user=user,
            key=private,
            folder=self.folder,
            alive=self.check_alive,
            console=lambda: self.console.text,
        )
        self._guests.append(guest)
        return guest

    # --- inside

    def _start(self, state_name: str | None = None) -> None:
        assert self._accelerator is not None
        if image_identity(self.config.image) != self._image_state:
            raise Error(
                "the image was made anew while a machine was using it: what the machine has written no longer fits",
                where=str(self.config.image),
                hint="start over, and don't build an image while its tests run",
            )
        config = replace(self.config, network=self._network_card.network)
        paths = [self.folder, *self._files.visible(config, self._accelerator)]
        command = self._wrap(command_line(config, self._files, self._accelerator), paths)
        self._damage: dict[str, BadSectors] = {}
        self._session.start(command, lambda: self._restore(state_name) if state_name else None)

    def _restore(self, name: str) -> None:
        self._job("snapshot-load", tag=name, vmstate=DISK, devices=[DISK])
        if (
            self._files.vars
        ):  # QEMU has them in the memory that it has just loaded, and writes what changes from there on
            with self._kept_vars(name).open("rb") as kept, self._files.vars.open("r+b") as file:
                shutil.copyfileobj(kept, file)

    def _kept_vars(self, name: str) -> Path:
        return self.folder / f"vars-{name}.fd"

    @property
    def _has_sd_card(self) -> bool:
        return self.config.board.qemu.disk == "sd" and bool(self._files.drives)

    def _flush_sd_card(self) -> None:
        """Make QEMU write what it holds back of a qcow2 file's tables: no guest ever tells it to."""
        card = self._files.drives[0]
        self.qmp("stop")
        said = self.qmp("human-monitor-command", command_line=f"qemu-io {card.name} flush")
        if said.strip():
            raise Error(f"the card cannot be written: {said.strip()}", where=str(card.path))

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

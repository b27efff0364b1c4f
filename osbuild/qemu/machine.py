"""A virtual machine, from power on to nothing left of it."""

import contextlib
import os
import re
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from osbuild.errors import Error
from osbuild.qemu.accel import Accelerator, choose
from osbuild.qemu.command import DISK, NETDEV, NIC, Drive, Files, command_line, netdev, nic
from osbuild.qemu.config import MachineConfig, Network, Wrap, direct, find_firmware
from osbuild.qemu.deadline import TICK, Deadline, TimedOut
from osbuild.qemu.disk import copy_once, keep_overlay, make_overlay
from osbuild.qemu.process import Guarded
from osbuild.qemu.qmp import CommandRefused, Event, Monitor
from osbuild.qemu.serial import Console, Line, tail
from osbuild.qemu.ssh import Guest, KeyPair

START_SECONDS = 30.0
SOCKET_PATH_LIMIT = 107  # unix(7), without the final zero

# What QEMU says when it cannot start, and what to do about it.
ADVICE = (
    (r"Could not set up host forwarding rule|Address already in use", "the port is in use: choose another one"),
    (r'Failed to get "?\w+"? lock', "another machine is using this disk: end it, or persist in another file"),
    (r"cannot set up guest memory|Cannot allocate memory", "the host has too little memory free: ask for less"),
    (r"KVM|kvm_", "run with --accel tcg"),
    (r"No space left on device", "the folder for temporary files is full: point TMPDIR to another one"),
    (r"Property .* not found|not a valid device|invalid option", "this QEMU does not know one of its arguments"),
)


def parse_forward(usernet: str, port: int) -> int:
    """The host's port that leads to the guest's `port`, from HMP `info usernet`. Raises `Error` if there is none."""
    for line in usernet.splitlines():
        fields = line.split()
        # TCP[HOST_FORWARD]  fd  host address  host port  guest address  guest port  …
        if fields and fields[0] == "TCP[HOST_FORWARD]" and fields[5] == str(port):
            return int(fields[3])
    raise Error(f"port {port} of the guest is not forwarded", hint="list it in Network.forwards")


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
        wrap: Wrap = direct,
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
        self._network = config.network
        self._monitor: Monitor | None = None
        self._line: Line | None = None
        self._guests: list[Guest] = []
        self._ended: str | None = None

    def __enter__(self) -> "Machine":
        if self._accelerator is None:
            self._accelerator = choose(self.config.architecture, wrap=self._wrap, root=self._root)
        with ExitStack() as stack:
            self._guarded = Guarded(self._workdir)
            stack.callback(self._guarded.close)
            stack.callback(self._disconnect)
            folder = self._guarded.folder
            self._qmp_socket = stack.enter_context(_listen(folder / "qmp"))
            self._console_socket = stack.enter_context(_listen(folder / "console"))
            self._files = self._prepare(folder)
            self.console = Console(self._files.log, self.check_alive)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- power

    @property
    def folder(self) -> Path:
        """The machine's private folder, gone at its end."""
        return self._guarded.folder

    @property
    def running(self) -> bool:
        """QEMU is there (the guest may still hang)."""
        return self._ended is None and self._guarded.status() is None

    def check_alive(self) -> None:
        """Raise `Error`, with what QEMU said last, if the machine is off."""
        if not self.running:
            raise Error(self._describe_end(), hint=self._advice())

    def boot_again(self) -> None:
        """Power on after a power cut or a shutdown: same disks, same UEFI variables, network as last plugged."""
        if self.running:
            raise Error("the machine is on already", hint="call power_cut() or shutdown() first")
        self._disconnect()
        self.console.skip()
        self._start()

    def power_cut(self) -> None:
        """Pull the plug: what the guest has not flushed is lost."""
        self._guarded.kill()
        self._ended = "the machine is off: its power was cut"
        self._disconnect()

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
            status = self._guarded.wait(timeout)
        except TimedOut:
            message = f"the guest was not off within {timeout:g} s\n{tail(self.console.text)}"
            raise TimedOut(message, hint=f"the whole log is in {self.console.path}") from None
        if status:
            raise Error(self._describe_end(), hint=self._advice())
        self._ended = "the machine is off: the guest has shut down"
        self._disconnect()

    # --- talking to QEMU

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Run a QMP command; underscores in argument names stand for hyphens. Returns its `return` value."""
        self.check_alive()
        assert self._monitor is not None
        return self._monitor.execute(command, {name.replace("_", "-"): value for name, value in arguments.items()})

    def wait_for_event(self, name: str, timeout: float, *, matching: Mapping[str, Any] | None = None) -> Event:
        """The oldest event `name` of this boot that was not returned before; see `Monitor.wait_for_event`."""
        assert self._monitor is not None
        return self._monitor.wait_for_event(name, timeout, matching=matching, alive=self.check_alive)

    @property
    def events(self) -> list[Event]:
        """Every QMP event since the machine was last powered on."""
        assert self._monitor is not None
        return self._monitor.events

    def save(self, name: str) -> None:
        """Keep the whole state, memory and first disk, under `name`, inside the disk's overlay."""
        self._job("snapshot-save", tag=name, vmstate=DISK, devices=[DISK])

    def load(self, name: str) -> None:
        """Go back to a state of this machine. Not brought back: further disks, UEFI variables, connections."""
        self._job("snapshot-load", tag=name, vmstate=DISK, devices=[DISK])
        self._forget_guests()
        self.console.skip()

    # --- console and network

    @property
    def line(self) -> Line:
        """The serial console's wire."""
        self.check_alive()
        assert self._line is not None
        return self._line

    def send(self, text: str) -> None:
        """Type `text` at the serial console."""
        self.line.send(text)

    def plug_network(self, network: Network | None = None) -> None:
        """Plug a network card in; by default the one that the machine was made with, or a plain one."""
        network = network or self.config.network or Network()
        try:
            self.qmp("netdev_add", **netdev(network))
        except CommandRefused as error:
            raise Error(f"the network cannot be plugged in: {error}", hint=self._advice(str(error))) from error
        try:
            self.qmp("device_add", **nic(network))
        except Error:
            self.qmp("netdev_del", id=NETDEV)
            raise
        self._network = network

    def unplug_network(self, timeout: float = 30.0) -> None:
        """Pull the network card; the guest has `timeout` seconds to let it go. Raises `TimedOut` if it does not."""
        self.qmp("device_del", id=NIC)
        self.wait_for_event("DEVICE_DELETED", timeout, matching={"device": NIC})
        self.qmp("netdev_del", id=NETDEV)
        self._network = None
        self._forget_guests()

    def set_link(self, up: bool) -> None:
        """Plug or pull the network cable; the card stays."""
        self.qmp("set_link", name=NIC, up=up)

    def port(self, guest: int) -> int:
        """The port on 127.0.0.1 that leads to TCP port `guest` of the guest."""
        return parse_forward(self.qmp("human-monitor-command", command_line="info usernet"), guest)

    def guest(self, user: str, key: KeyPair | Path) -> Guest:
        """SSH to the guest as `user` with a key pair or private key file; needs the forward of port 22."""
        private = key.private if isinstance(key, KeyPair) else key
        guest = Guest(
            port=lambda: self.port(22),
            user=user,
            key=private,
            folder=self._guarded.folder,
            alive=self.check_alive,
            console=lambda: self.console.text,
        )
        self._guests.append(guest)
        return guest

    # --- inside

    def _prepare(self, folder: Path) -> Files:
        config = self.config
        drives = []
        self._image_state = self._stat_image()
        if config.image and config.persist:
            keep_overlay(config.image, config.persist, config.disk_size, self._wrap)
            drives.append(Drive(DISK, config.persist.absolute(), "qcow2"))
        elif config.image:
            make_overlay(config.image, folder / "disk.qcow2", config.disk_size, self._wrap)
            drives.append(Drive(DISK, folder / "disk.qcow2", "qcow2", volatile=True))
        for number, path in enumerate(config.disks, 1):
            drives.append(Drive(f"disk{number}", path.absolute(), _any_format(path)))
        for number, path in enumerate(config.media):
            if not path.is_file():
                raise Error("there is no such file", where=str(path), hint="make a seed: edge-osbuild seed PROFILE")
            drives.append(Drive(f"media{number}", path.absolute(), "raw", readonly=True))
        log = self._log or folder / "console.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        files = Files(qmp=folder / "qmp", console=folder / "console", log=log, drives=tuple(drives))
        if config.direct:
            return files
        firmware = find_firmware(config.architecture, self._root)
        store = Path(f"{config.persist.absolute()}.vars") if config.persist else folder / "vars.fd"
        copy_once(firmware.template, store)
        return replace(files, code=firmware.code, vars=store)

    def _stat_image(self) -> tuple[int, int] | None:
        """What tells an image from another one that was put in its place. A missing one is reported with the disks."""
        if self.config.image is None or not self.config.image.exists():
            return None
        stat = self.config.image.stat()
        return stat.st_ino, stat.st_mtime_ns

    def _start(self) -> None:
        assert self._accelerator is not None
        if self._stat_image() != self._image_state:
            raise Error(
                "the image was made anew while a machine was using it: what the machine has written no longer fits",
                where=str(self.config.image),
                hint="start over, and don't build an image while its tests run",
            )
        config = replace(self.config, network=self._network)
        paths = [self._guarded.folder, self._files.log.parent, *(drive.path for drive in self._files.drives)]
        paths += [path.absolute() for path in (config.image,) if path]
        if config.direct:
            paths += [path.absolute() for path in (config.direct.kernel, config.direct.initrd) if path]
        if self._files.vars:
            paths.append(self._files.vars)
        if self._accelerator.name == "kvm":
            paths.append(Path("/dev/kvm"))
        self._ended = None
        self._guarded.start(self._wrap(command_line(config, self._files, self._accelerator), paths))
        try:
            self._monitor = Monitor(self._accept(self._qmp_socket))
            self._line = Line(self._accept(self._console_socket))
            self.qmp("cont")
        except Error:
            # a QEMU that does not like its arguments may first connect, then die: say what it said, not what broke
            with contextlib.suppress(TimedOut):
                self._guarded.wait(2)
            self.check_alive()
            raise

    def _accept(self, listener: socket.socket) -> socket.socket:
        deadline = Deadline(START_SECONDS)
        listener.settimeout(TICK)
        while not deadline.passed:
            try:
                return listener.accept()[0]
            except TimeoutError:
                self.check_alive()
        raise TimedOut(f"QEMU did not start within {START_SECONDS:g} s", hint="is the host overloaded?")

    def _job(self, command: str, **arguments: Any) -> None:
        name = f"{command}-{arguments['tag']}"
        self.qmp(command, job_id=name, **arguments)
        self.wait_for_event("JOB_STATUS_CHANGE", 300, matching={"id": name, "status": "concluded"})
        (job,) = [job for job in self.qmp("query-jobs") if job["id"] == name]
        self.qmp("job-dismiss", id=name)
        if "error" in job:
            raise Error(f"{command} {arguments['tag']} failed: {job['error']}")

    def _qemu_said(self) -> str:
        try:
            return self._guarded.logfile.read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _describe_end(self) -> str:
        if self._ended:
            return self._ended
        status = self._guarded.status()
        if status == 0:
            return "the machine is off: the guest has shut down"
        how = f"was killed by signal {-status}" if status and status < 0 else f"ended with status {status}"
        return f"QEMU {how}\n{tail(self._qemu_said(), 15)}".rstrip()

    def _advice(self, said: str | None = None) -> str:
        said = self._qemu_said() if said is None else said
        for pattern, advice in ADVICE:
            if re.search(pattern, said):
                return advice
        return f"the console's log is in {self._files.log}"

    def _forget_guests(self) -> None:
        for guest in self._guests:
            guest.disconnect()

    def _disconnect(self) -> None:
        self._forget_guests()
        if self._monitor:
            self._monitor.close()
        if self._line:
            self._line.close()
            self._line = None


def _listen(path: Path) -> socket.socket:
    if len(str(path)) > SOCKET_PATH_LIMIT:
        raise Error(f"the path is too long for a socket: {path}", hint="point TMPDIR to a folder with a shorter name")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def _any_format(path: Path) -> str:
    """Of a further disk, which may well be empty."""
    if not path.is_file():
        raise Error("there is no such disk", where=str(path))
    with path.open("rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"

"""The QEMU driver with the real QEMU: starts, power cuts, hot-plugging, and cleaning up."""

import hashlib
import itertools
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.machines import MachineFactory

from osbuild.config.board import Board
from osbuild.qemu import acceleration
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import DirectKernel, Forward, MachineConfig, MachineNetwork
from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.qemu.emulator import Emulator
from osbuild.qemu.machine import Machine
from osbuild.shared.errors import Error

BOOT = 60.0
_numbers = itertools.count()


def run_in_shell(machine: Machine, line: str, timeout: float = 60.0) -> str:
    """Run `line` in the guest's shell, which must succeed, and return its output."""
    mark = f"mark-{next(_numbers)}"
    machine.send(f"echo {mark}; {line}; echo {mark}:$?\n")
    match = machine.console.wait_for(rf"{mark}\n([\s\S]*?){mark}:(\d+)", timeout)
    assert match[2] == "0", match[0]
    return match[1].strip()


def wait_booted(machine: Machine) -> Machine:
    machine.console.wait_for("READY", BOOT)
    return machine


def processes(folder: Path) -> list[str]:
    """Return the command lines of processes that contain `folder`."""
    command_lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            command_lines.append(line)
    return command_lines


@pytest.fixture
def plain(board: Board, kernel: DirectKernel) -> MachineConfig:
    """The smallest machine: a kernel with a shell."""
    return MachineConfig(board=board, memory=256 * 2**20, direct=kernel, network=None)


@pytest.fixture
def power_on(qemu: Emulator, accelerator: Accelerator, tmp_path: Path) -> Callable[[MachineConfig], Machine]:
    """Makes a machine that is not powered on yet, with its temporary files below `tmp_path / "work"`."""
    (tmp_path / "work").mkdir()
    return lambda config: Machine(config, workdir=tmp_path / "work", emulator=qemu, accelerator=accelerator)


@pytest.mark.parametrize("failure", [None, ValueError, KeyboardInterrupt])
def test_nothing_is_left_however_the_block_ends(
    power_on: Callable[[MachineConfig], Machine],
    plain: MachineConfig,
    disk: Path,
    tmp_path: Path,
    failure: type[BaseException] | None,
) -> None:
    threads = set(threading.enumerate())
    try:
        with power_on(replace(plain, image=disk, network=MachineNetwork())) as machine:
            assert machine.port(22) > 0
            assert len(processes(tmp_path)) >= 2
            if failure:
                raise failure
    except (ValueError, KeyboardInterrupt) as error:
        assert type(error) is failure
    assert processes(tmp_path) == []
    assert list((tmp_path / "work").iterdir()) == []
    assert set(threading.enumerate()) == threads


def test_nothing_is_left_when_python_is_killed(tmp_path: Path, plain: MachineConfig) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time; from pathlib import Path\n"
        "from osbuild.qemu.acceleration import choose_accelerator; from osbuild.qemu.config import *\n"
        "from osbuild.qemu.emulator import find_emulator; from osbuild.qemu.machine import Machine\n"
        "work, kernel, initrd = map(Path, sys.argv[1:4]); board = load_board(sys.argv[5])\n"
        "config = MachineConfig(board=board, direct=DirectKernel(kernel, initrd, sys.argv[4]))\n"
        "qemu, accelerator = find_emulator(board.architecture), choose_accelerator(board, 'tcg')\n"
        "with Machine(config, workdir=work, emulator=qemu, accelerator=accelerator):\n"
        "    print('on', flush=True); time.sleep(100)\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    assert plain.direct
    arguments = [
        str(work),
        str(plain.direct.kernel),
        str(plain.direct.initrd),
        plain.direct.arguments,
        plain.board.name,
    ]
    with subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "on\n"
        assert any("qemu-system" in line for line in processes(work))
        parent.kill()
        parent.wait()
        deadline = Deadline(30)
        while remaining := [*processes(work), *map(str, work.iterdir())]:
            assert not deadline.passed, remaining
            deadline.pause()


def test_the_end_of_qemu_is_detected_at_once(machine: MachineFactory, plain: MachineConfig) -> None:
    guest = machine(plain)
    (pid,) = _qemu_pids(guest)
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(Error, match=r"QEMU (was killed by signal 9|ended with status 137), while waiting for 'READY'"):
        guest.console.wait_for("READY", BOOT)
    assert time.monotonic() - begin < 2
    with pytest.raises(Error, match="QEMU"):
        guest.wait_for_event("SHUTDOWN", BOOT)
    with pytest.raises(Error, match="QEMU"):
        guest.qmp("query-status")


def _qemu_pids(machine: Machine) -> list[int]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if line.startswith(b"qemu-system") and str(machine.folder).encode() in line:
            pids.append(int(path.parent.name))
    return pids


def test_a_power_cut_keeps_flushed_data_and_does_not_change_the_image(
    machine: MachineFactory, plain: MachineConfig, disk: Path
) -> None:
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    guest = wait_booted(machine(replace(plain, image=disk, disk_size=48 * 2**20)))
    assert run_in_shell(guest, "cat /sys/block/vda/size") == str(48 * 2**20 // 512)
    run_in_shell(guest, "echo flushed | dd of=/dev/vda bs=4096 seek=2 conv=fsync,notrunc 2>/dev/null")
    run_in_shell(guest, "exec 3</dev/vda")  # the last close of a disk flushes it, so keep it open
    run_in_shell(guest, "echo cached | dd of=/dev/vda bs=4096 seek=4 conv=notrunc 2>/dev/null")
    guest.power_cut()
    assert not guest.running
    with pytest.raises(Error, match="its power was cut"):
        guest.send("x")
    guest.boot_again()
    wait_booted(guest)
    assert run_in_shell(guest, "dd if=/dev/vda bs=4096 skip=2 count=1 2>/dev/null | head -c 7") == "flushed"
    assert run_in_shell(guest, "dd if=/dev/vda bs=4096 skip=4 count=1 2>/dev/null | head -c 6 | tr -d '\\0'") == ""
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
    guest.power_cut()
    disk.touch()
    with pytest.raises(Error, match="replaced while a machine was using it"):
        guest.boot_again()


def test_a_persistent_disk_is_kept_and_belongs_to_one_machine_at_a_time(
    machine: MachineFactory, plain: MachineConfig, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(plain, image=disk, persist=Path("kept here, too.qcow2"))  # relative, with a comma
    guest = wait_booted(machine(config))
    run_in_shell(guest, "echo kept | dd of=/dev/vda bs=4096 seek=2 conv=fsync,notrunc 2>/dev/null")
    with pytest.raises(Error, match="lock") as caught:
        machine(config)
    assert "another machine is using this disk" in (caught.value.hint or "")
    guest.send("poweroff -f\n")
    guest.wait_off(60)
    guest = wait_booted(machine(config))
    assert run_in_shell(guest, "dd if=/dev/vda bs=4096 skip=2 count=1 2>/dev/null | head -c 4") == "kept"


def test_events_resets_and_panics_are_distinguished(machine: MachineFactory, plain: MachineConfig) -> None:
    guest = wait_booted(machine(plain))
    guest.reset()
    wait_booted(guest)
    guest.send("reboot -f\n")
    event = guest.wait_for_event("RESET", 60)
    assert event["data"]["reason"] == "guest-reset"
    wait_booted(guest)
    with pytest.raises(TimedOut, match=r"no event SHUTDOWN within 0\.2 s; the last events were: .*RESET"):
        guest.wait_for_event("SHUTDOWN", 0.2)
    guest.send("echo c >/proc/sysrq-trigger\n")
    begin = time.monotonic()
    with pytest.raises(Error, match="Kernel panic") as caught:
        guest.console.wait_for("never", 60)
    assert time.monotonic() - begin < 20
    assert "panicked" in (caught.value.hint or "")


def test_a_network_card_is_plugged_in_reached_and_pulled(machine: MachineFactory, plain: MachineConfig) -> None:
    guest = wait_booted(machine(plain))
    run_in_shell(guest, "! test -e /sys/class/net/eth0")
    for _ in range(2):
        guest.plug_network(MachineNetwork(forwards=(Forward(80),), restrict=True))
        run_in_shell(
            guest, "while ! ip address add 10.0.2.15/24 dev eth0 2>/dev/null; do sleep 0.1; done; ip link set eth0 up"
        )
        run_in_shell(guest, "(echo hello | nc -l -p 80 &) ; sleep 0.5; cat /sys/class/net/eth0/carrier")
        with socket.create_connection(("127.0.0.1", guest.port(80)), timeout=30) as connection:
            assert connection.recv(100) == b"hello\n"
        guest.set_link(False)
        run_in_shell(guest, "while ! grep -q 0 /sys/class/net/eth0/carrier; do sleep 0.1; done")
        guest.unplug_network()
        run_in_shell(guest, "! test -e /sys/class/net/eth0")
    with pytest.raises(Error, match="port 80 of the guest is not forwarded"):
        guest.port(80)


def test_a_saved_state_is_restored(machine: MachineFactory, plain: MachineConfig, disk: Path) -> None:
    guest = wait_booted(machine(replace(plain, image=disk)))
    run_in_shell(guest, "word=before; echo before | dd of=/dev/vda bs=4096 seek=2 conv=fsync,notrunc 2>/dev/null")
    guest.save("one")
    run_in_shell(guest, "word=after; echo after | dd of=/dev/vda bs=4096 seek=2 conv=fsync,notrunc 2>/dev/null")
    guest.load("one")
    read_command = "dd if=/dev/vda bs=4096 skip=2 count=1 2>/dev/null | head -n 1"
    assert run_in_shell(guest, f"echo $word; echo 3 >/proc/sys/vm/drop_caches; {read_command}").split() == [
        "before",
        "before",
    ]
    with pytest.raises(Error, match="snapshot-load two failed"):
        guest.load("two")


def test_qemus_errors_about_arguments_are_reported(machine: MachineFactory, plain: MachineConfig) -> None:
    with pytest.raises(Error, match="no-such-device"):
        machine(replace(plain, extra=("-device", "no-such-device")))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        network = MachineNetwork(forwards=(Forward(22, listener.getsockname()[1]),))
        with pytest.raises(Error, match="Could not set up host forwarding rule") as caught:
            machine(replace(plain, network=network))
    assert caught.value.hint == "the port is in use: choose another one"


def test_kvm_is_used_only_if_the_firmware_starts(board: Board, qemu: Emulator) -> None:
    """Tests the probe with TCG, which works everywhere, and with a machine that stops before its firmware."""
    instead = {"kvm": "tcg", "host": board.qemu.cpu}
    command = [instead.get(word, word) for word in acceleration.probe_command(board, qemu.root)]
    assert acceleration.probe_kvm(command, qemu.wrap, 60) is None
    assert "has not started within 1 s" in (acceleration.probe_kvm([*command, "-S"], qemu.wrap, 1) or "")
    assert "ended with status 1" in (acceleration.probe_kvm([*command, "-no-such-option"], qemu.wrap, 60) or "")


def test_run_shows_the_console_and_quits_by_key_or_signal(board: Board, disk: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "osbuild", "run", str(disk), "--board", board.name, "--accel", "tcg"]
    command += ["--memory", "256M"]
    environment = {**os.environ, "TMPDIR": str(work)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as streaming:
        assert streaming.stdout
        output = b""
        while b"BdsDxe" not in output:
            output += (data := os.read(streaming.stdout.fileno(), 4096))
            assert data, output
        streaming.terminate()
        assert streaming.wait(30) == 128 + signal.SIGTERM
    assert processes(work) == []
    assert list(work.iterdir()) == []

    terminal, child_terminal = pty.openpty()
    before = termios.tcgetattr(child_terminal)
    with subprocess.Popen(
        command, stdin=child_terminal, stdout=child_terminal, stderr=child_terminal, env=environment
    ) as interactive:
        output = b""
        while b"BdsDxe" not in output:
            output += os.read(terminal, 4096)
        os.write(terminal, b"\x01x")
        assert interactive.wait(30) == 0
    assert b"ssh -p " in output
    assert termios.tcgetattr(child_terminal) == before
    os.close(terminal)
    os.close(child_terminal)
    assert processes(work) == []

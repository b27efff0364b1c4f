"""What goes wrong around an update: a disk that is full, signals, RAUC at work for others or hung, two at a time."""

import fcntl
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent import systemd
from osbuild.agent.__main__ import main
from osbuild.agent.commands import rollback
from osbuild.agent.errors import Problem
from osbuild.agent.http import ServerAddress
from osbuild.agent.system import System
from osbuild.agent.update import context, history, install, pending, preconditions, rauc, records, status, switch
from osbuild.agent.update.after_boot import handle_boot
from osbuild.agent.update.commit import commit_update
from osbuild.agent.update.context import LOCK, SIGNALS, handle_signals, is_busy, update_lock
from osbuild.agent.update.failure import Failure
from osbuild.agent.update.install_attempt import AttemptLog, InstallRequest, attempt_install
from osbuild.agent.update.pending import UpdateStage
from osbuild.agent.update.rauc import BundleManifest, RaucService, inspect_bundle
from osbuild.host import paths
from tests.support.devices import Device

MANIFEST = BundleManifest("edge-osbuild-tiny-test", "1.1.0", "build", "hash of 1.1.0")


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a shell script before all programs of that name."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name: str, script: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        return folder

    return put


def put(device: Device) -> pending.PendingUpdate:
    planned = install.plan_update(device.context, "/bundle.raucb", MANIFEST, False, None)
    return install.write_slot(device.context, planned, device.write("1.1.0"))


def full(device: Device, *names: str) -> None:
    """From now on nothing can be written to these files: a folder is in the way of what is written beside them."""
    for name in names:
        records.state_path(device.system, f".{name}.new").mkdir()


# --- a disk that is full, or read-only


def test_a_full_disk_does_not_keep_a_node_cordoned(device: Device) -> None:
    update = put(device)
    full(device, "pending.json", "history.jsonl")
    with pytest.raises(Problem, match="slot b cannot be switched to"):
        switch.switch_slot(device.context, update, reboot=True)
    assert (device.cluster.cordoned, device.restarts, device.loader.next_slot(device.system)) == (False, 0, "a")
    assert pending.load_pending(device.system) == update


def test_an_installation_that_cannot_be_recorded_writes_no_slot(device: Device) -> None:
    def write() -> dict[str, Any]:
        pytest.fail("the slot is written")

    planned = install.plan_update(device.context, "/b", MANIFEST, False, None)
    full(device, "history.jsonl")
    with pytest.raises(OSError, match=r"history\.jsonl"):
        install.write_slot(device.context, planned, write)
    assert pending.load_pending(device.system) is None
    full(device, "pending.json")
    with pytest.raises(OSError, match=r"pending\.json"):
        install.write_slot(device.context, planned, write)


def test_boot_and_commit_work_without_writable_records(device: Device) -> None:
    switch.switch_slot(device.context, put(device), reboot=True)
    device.reboot()
    full(device, "boots.jsonl")
    assert handle_boot(device.context) == 0
    device.loader.bless(device.system, "b")
    with pytest.raises(OSError, match=r"boots\.jsonl"):  # the unit tries again
        commit_update(device.context)
    (device.root / records.FOLDER.lstrip("/") / ".boots.jsonl.new").rmdir()
    commit_update(device.context)
    assert (pending.load_pending(device.system), history.read_history(device.system)[-1]["event"]) == (
        None,
        "committed",
    )


# --- a cluster that does not answer


def test_a_node_that_cannot_be_uncordoned_now_is_uncordoned_later_in_the_same_boot(device: Device) -> None:
    device.cluster.answers = False
    device.cluster.fails = RuntimeError("no space for a snapshot")
    with pytest.raises(Problem, match="no space"):
        switch.switch_slot(device.context, put(device), reboot=True)
    assert (device.cluster.cordoned, device.cluster.asked) == (True, 1)
    device.cluster.fails = None
    switch.switch_pending(device.context, reboot=False)
    rollback.roll_back(device.context, reboot=True)
    assert (device.cluster.cordoned, device.cluster.asked, device.restarts) == (True, 2, 0)
    assert (paths.PROJECT / "overlays/kubernetes/usr/lib/systemd/system" / systemd.UNCORDON).is_file()


# --- signals


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Those of a program that nobody started with nohup(1), whatever these tests were started with."""
    known = {each: signal.signal(each, signal.SIG_DFL) for each in SIGNALS}
    yield
    for each, handler in known.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_undoes_the_running_command_and_a_second_signal_is_ignored(
    device: Device, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = put(device)
    leave, arrive = device.cluster.prepare_reboot, device.cluster.rejoin

    def interrupted_leave(*arguments: Any) -> dict[str, Any]:
        leave(*arguments)
        os.kill(os.getpid(), number)
        time.sleep(5)
        pytest.fail("it was not interrupted")

    def interrupted_arrive(*arguments: Any) -> dict[str, Any]:
        os.kill(os.getpid(), number)
        return arrive(*arguments)

    monkeypatch.setattr(device.cluster, "prepare_reboot", interrupted_leave)
    monkeypatch.setattr(device.cluster, "rejoin", interrupted_arrive)
    handle_signals()
    with pytest.raises(KeyboardInterrupt):
        switch.switch_slot(device.context, update, reboot=True)
    assert (device.cluster.cordoned, device.restarts) == (False, 0)
    stored = pending.load_pending(device.system)
    assert stored and stored.stage == UpdateStage.installed


@pytest.mark.usefixtures("_handlers")
def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup(1)
    handle_signals()
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (Problem("no", where="/efi", hint="mount it"), 1, {"text": "no", "where": "/efi", "hint": "mount it"}),
        (OSError(28, "No space left on device", "/var/x"), 1, {"text": "No space left on device", "where": "/var/x"}),
        (KeyboardInterrupt(), 130, {"text": "interrupted", "where": None}),
    ],
)
def test_every_error_is_reported_as_json_to_scripts(
    device: Device, error: BaseException, status: int, message: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def leave(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(context, "need_root", lambda: None)
    monkeypatch.setattr(context, "this_device", lambda report: replace(device.context, progress=report))
    put(device)
    monkeypatch.setattr(switch, "as_problem", lambda error, found: error)
    monkeypatch.setattr(device.cluster, "prepare_reboot", leave)
    assert main(["update", "switch", "--json"]) == status
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["event"] == "error"
    assert message.items() <= last.items()


# --- RAUC

BUSY = 'echo "Call failed: already processing a different method" >&2; exit 1'
BUSCTL = """\
case "$*" in
*" BootSlot "*) echo '{"type":"s","data":"a"}'; echo '{"type":"s","data":"edge-osbuild-tiny-test"}' ;;
*GetNameOwner*) echo '{"type":"s","data":[":1.5"]}' ;;
*GetConnectionUnixProcessID*) echo '{"type":"u","data":[PID]}' ;;
*InstallBundle*|*GetSlotStatus*) BUSY ;;
*) exit 1 ;;
esac"""


def test_an_installation_by_another_program_is_neither_stopped_nor_a_failure(
    device: Device, programs: Callable[[str, str], Path]
) -> None:
    with subprocess.Popen(["sleep", "60"]) as service:
        programs("busctl", BUSCTL.replace("PID", str(service.pid)).replace("BUSY", BUSY))
        with pytest.raises(Failure, match="installing for another program"):
            RaucService().installed_hash("b")
        request = InstallRequest(ServerAddress("/bundle.raucb"), "id", time.monotonic() + 60)
        with pytest.raises(Failure, match="installing for another program"):
            attempt_install(device.system, request, lambda *arguments: None, AttemptLog())
        with pytest.raises(Problem, match="installing for another program") as caught:
            install.install_bundle(device.context, "/bundle.raucb", install.InstallOptions())
        assert "rauc status" in str(caught.value.hint)
        assert pending.load_pending(device.system) is None
        assert service.poll() is None, "the service is still running"
        service.kill()


def test_a_service_that_does_not_answer_is_asked_again_and_not_reported_as_stopped(
    device: Device, programs: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "retry_delays", lambda: itertools.repeat(0.01))
    late = 'test -e "$0.asked" || { touch "$0.asked"; echo "Call failed: Connection timed out" >&2; exit 1; }; '
    answer = """echo '{"type":"a(sa{sv})","data":[[]]}'"""
    programs("busctl", BUSCTL.replace("BUSY", late + answer))
    programs("rauc", 'echo "signature verification failed: bad" >&2; exit 1')
    with pytest.raises(Problem, match="signature is not valid"):
        install.install_bundle(device.context, "/bundle.raucb", install.InstallOptions())
    assert "RAUC does not answer; retrying in 0 s" in device.said


def test_a_slowly_starting_service_gets_more_time_than_the_bus_gives_it(
    programs: Callable[[str, str], Path],
) -> None:
    late = 'mkdir "${0%/*}/called" && { echo "Failed to activate service: timed out" >&2; exit 1; }'
    folder = programs("busctl", f'echo $SYSTEMD_BUS_TIMEOUT > "${{0%/*}}/patience"\n{late}\n{BUSCTL}')
    assert RaucService().slot == "a"
    assert (folder / "patience").read_text() == "120\n"
    programs("busctl", 'echo "Unit rauc.service not found." >&2; exit 1')
    with pytest.raises(Failure, match=r"cannot be reached: Unit rauc\.service not found"):
        RaucService()


def test_a_service_that_does_not_stop_is_killed_with_its_children(
    programs: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rauc, "GRACE", 0.5)
    with subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], start_new_session=True) as service:
        there = 'test ! -e "${0%/*}/killed" || exit 1; '
        owner = BUSCTL.replace("*GetNameOwner*) ", f"*GetNameOwner*) {there}").replace("PID", str(service.pid))
        folder = programs("busctl", owner.replace("BUSY", BUSY))
        programs("systemctl", f'echo "$*" > "${{0%/*}}/killed"; kill -KILL -{service.pid}')
        time.sleep(0.3)
        RaucService().stop()
        assert service.wait(10) == -signal.SIGKILL
    assert (folder / "killed").read_text() == "kill --signal=KILL rauc.service\n"


def test_rauc_info_that_hangs_is_killed_with_its_children(programs: Callable[[str, str], Path]) -> None:
    folder = programs("rauc", 'sleep 60 & echo $! > "${0%/*}/child"; wait')
    begin = time.monotonic()
    with pytest.raises(Failure, match="the server did not answer within 1 s"):
        inspect_bundle(ServerAddress("http://updates.example/b.raucb"), 1.0)
    assert time.monotonic() - begin < 10
    child = int((folder / "child").read_text())
    for _ in range(50):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("what fetches the bundle goes on")


# --- two at a time


def test_a_commit_does_not_use_the_record_of_a_concurrent_rollback(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch.switch_slot(device.context, put(device), reboot=True)
    device.reboot()
    handle_boot(device.context)
    device.loader.bless(device.system, "b")
    with update_lock(device.system):
        with pytest.raises(Problem, match="another update is being installed"):  # the unit tries again
            commit_update(device.context)
        assert pending.load_pending(device.system)
    arrive = device.cluster.rejoin

    def slow(system: System) -> dict[str, Any]:
        under_way = status.update_status(device.context)["pending"]
        assert (under_way["busy"], under_way["outlook"]) == (True, "is on trial and running")
        with pytest.raises(Problem, match="another update is being installed"):
            rollback.roll_back(device.context, reboot=True)
        return arrive(system)

    monkeypatch.setattr(device.cluster, "rejoin", slow)
    commit_update(device.context)
    assert (pending.load_pending(device.system), history.read_history(device.system)[-1]["event"]) == (
        None,
        "committed",
    )
    rollback.roll_back(device.context, reboot=True)
    assert device.reboot() == "a"


def test_a_status_query_does_not_block_an_update(device: Device) -> None:
    path = device.system.path(LOCK)
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as `edge-agent update status` does it
        thread = threading.Timer(0.3, lambda: fcntl.flock(file, fcntl.LOCK_UN))
        thread.start()
        with update_lock(device.system):
            pass
        thread.join()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_in_the_place_of_the_lock_is_set_aside(
    device: Device, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = device.system.path(LOCK)
    path.parent.mkdir(parents=True)
    if kind == "link":
        path.symlink_to(path.name)
    else:
        (os.mkfifo if kind == "fifo" else os.mkdir)(path)
    for _ in range(2):
        with update_lock(device.system):
            assert is_busy(device.system) and path.read_text() == f"{os.getpid()}\n"
            with pytest.raises(Problem, match="another update") as caught, update_lock(device.system):
                pass
            assert f"process {os.getpid()};" in str(caught.value.hint)
    assert "kept as update.lock.damaged" in capsys.readouterr().err


# --- the minimum version


def test_without_a_minimum_version_the_running_version_is_the_minimum(device: Device) -> None:
    older = BundleManifest(MANIFEST.compatible, "0.9.0", "build", "hash")
    with pytest.raises(Problem, match=r"0\.9\.0 is older than the minimum version 1\.0\.0"):
        preconditions.check_bundle(device.context, "/b", older, MANIFEST.compatible)
    device.put("usr/lib/edge-osbuild/image.json", replace(device.system.image(), version="1.1.0").to_text())
    assert preconditions.check_bundle(device.context, "/b", MANIFEST, MANIFEST.compatible) is False

"""A cancellation reaches root while it writes a slot, and no more when it switches."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from osbuild.agent.fleet import cancellation, install_order
from osbuild.agent.fleet.action_record import ActionRecord, ActionStage
from osbuild.agent.fleet.cancellation import (
    CANCEL_FILE,
    SWITCHING_FILE,
    CancellationWatch,
    OrderCancelled,
    forget_cancellation,
    is_cancelled,
    is_switching,
    request_cancellation,
)
from osbuild.agent.fleet.install_order import install_ordered
from osbuild.agent.fleet.order import OrderedInstaller, forget_taken_order
from osbuild.agent.fleet.outcome import load_outcome
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.system import System
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.install import InstallOptions
from tests.support.devices import Device

ORDER = "0e3c6a4e-5f0f-4c0a-9d1e-0a1b2c3d4e5f"
PATIENT = 60.0  # seconds
# Work of root that is cut off while it waits for RAUC.
WORK = """
import sys, time
from pathlib import Path
from osbuild.agent.fleet.cancellation import CancellationWatch
from osbuild.agent.system import System
from osbuild.agent.update.context import handle_signals
handle_signals()
watch = CancellationWatch(System(Path(sys.argv[1])), sys.argv[2])
try:
    with watch:
        if sys.argv[3:]:
            watch.begin_switch()
        print("begun", flush=True)
        time.sleep(float(sys.argv[4]) if sys.argv[3:] else 600)
    print("completed")
except KeyboardInterrupt:
    print("cancelled" if watch.cancelled else "interrupted")
"""


def start_work(root: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORK, str(root), ORDER, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def test_a_cancellation_ends_what_root_does(tmp_path: Path) -> None:
    process = start_work(tmp_path)
    assert request_cancellation(System(tmp_path), "another order")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    assert request_cancellation(System(tmp_path), ORDER)
    assert process.communicate(timeout=PATIENT)[0] == "cancelled\n"


def test_a_signal_is_not_a_cancellation(tmp_path: Path) -> None:
    process = start_work(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENT)[0] == "interrupted\n"


def test_a_cancellation_during_the_switch_is_too_late(tmp_path: Path) -> None:
    process, system = start_work(tmp_path, "switch", "3"), System(tmp_path)
    assert is_switching(system, ORDER)
    assert not request_cancellation(system, ORDER) and not is_cancelled(system, ORDER)
    assert process.communicate(timeout=PATIENT)[0] == "completed\n"


def test_a_cancellation_just_before_the_switch_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "INTERVAL", 3600.0)  # root is this process, which must not be ended
    system = System(tmp_path)
    with CancellationWatch(system, ORDER) as watch:
        assert request_cancellation(system, ORDER)
        with pytest.raises(OrderCancelled):
            watch.begin_switch()
        assert watch.cancelled and not is_switching(system, ORDER) and is_cancelled(system, ORDER)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 7}', '{"id": "7"}', "\0" * 100])
def test_a_damaged_cancellation_is_none(tmp_path: Path, content: str) -> None:
    for name in (CANCEL_FILE, SWITCHING_FILE):
        System(tmp_path).path(name).parent.mkdir(parents=True)
        System(tmp_path).path(name).write_text(content)
    assert not is_cancelled(System(tmp_path), ORDER) and not is_switching(System(tmp_path), ORDER)
    with CancellationWatch(System(tmp_path), ORDER) as watch:
        watch.begin_switch()
    assert is_switching(System(tmp_path), ORDER)


def test_root_follows_no_link_of_the_unprivileged_part(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"id": ORDER}))
    path = System(tmp_path).path(CANCEL_FILE)
    path.parent.mkdir(parents=True)
    path.symlink_to(secret)
    assert not is_cancelled(System(tmp_path), ORDER) and secret.exists()


@dataclass(frozen=True)
class OrderedDevice:
    """A device with an order that root takes."""

    device: Device
    settings: FleetSettings

    def install(self) -> None:
        record = ActionRecord("7", ORDER, ActionStage.ordered, f"{self.settings.server}/f.raucb", "2.0.0")
        OrderedInstaller(self.device.system).order(record)
        try:
            install_ordered(self.device.context, self.settings)
        finally:
            forget_taken_order(self.device.system)


@pytest.fixture
def ordered(tmp_path: Path) -> OrderedDevice:
    return OrderedDevice(
        Device(tmp_path), FleetSettings("n", "https://updates.example.com", "PEM", target_token="0f0f")
    )


def test_a_cancelled_installation_is_no_failure(ordered: OrderedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "INTERVAL", 3600.0)
    switched = []

    def install(context: UpdateContext, source: str, options: InstallOptions) -> None:
        options.before_switch()
        switched.append(source)

    monkeypatch.setattr(install_order, "install_bundle", install)
    system = ordered.device.system
    request_cancellation(system, ORDER)
    ordered.install()
    assert switched == [] and load_outcome(system, ORDER) is None and not is_switching(system, ORDER)
    forget_cancellation(system)
    ordered.install()
    assert switched == ["https://updates.example.com/f.raucb"] and is_switching(system, ORDER)


def test_an_installation_that_is_interrupted_otherwise_says_so(
    ordered: OrderedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(context: UpdateContext, source: str, options: InstallOptions) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(install_order, "install_bundle", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ordered.install()
    assert load_outcome(ordered.device.system, ORDER) is None, "the order is repeated"

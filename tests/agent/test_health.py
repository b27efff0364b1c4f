"""Health checks, and the decision on a boot that fails them."""

import json
import os
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from osbuild.agent import console, health, systemd
from osbuild.agent.__main__ import main
from osbuild.agent.errors import Problem
from osbuild.agent.health import await_verdict, find_checks, judge_boot, result_lines, run_check, run_round
from osbuild.agent.system import System
from osbuild.agent.update import records
from osbuild.host import paths
from tests.support.mounted import full, mount_tmpfs

IMAGE = '{"name": "minimal", "version": "1.0.0"}'
VARIABLE = "sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


class Device:
    """Files of a device below a folder."""

    def __init__(self, root: Path, *, uptime: float = 1e6) -> None:
        self.root = root
        self.system = System(root)
        self.put("proc/cmdline", "quiet edge.slot=a roothash=abc\n")
        self.put("proc/uptime", f"{uptime} 1.0\n")
        self.put("usr/lib/edge-osbuild/image.json", IMAGE)
        self.put("dev/console", "")

    def put(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def check(self, name: str, script: str, folder: str = "usr/lib") -> Path:
        path = self.put(f"{folder}/edge-osbuild/health.d/{name}", f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def entries(self, *names: str, booted: str | None = None) -> None:
        for name in names:
            self.put(f"efi/EFI/Linux/{name}", name)
        if booted:
            path = self.put(VARIABLE, "")
            path.write_bytes(b"\6\0\0\0" + f"\\EFI\\Linux\\{booted}\0".encode("utf-16-le"))

    @property
    def result(self) -> dict[str, object]:
        verdict: dict[str, object] = json.loads((self.root / "run/edge-osbuild/health.json").read_text())
        return verdict

    @property
    def console(self) -> str:
        return (self.root / "dev/console").read_text()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_checks_run_in_order_of_name_and_a_check_in_etc_replaces_its_namesake(device: Device) -> None:
    device.check("20-b", "echo from usr")
    device.check("10-a", "echo first")
    device.check("20-b", "echo from etc", folder="etc")
    device.put("usr/lib/edge-osbuild/health.d/README", "not a check")
    results = run_round(device.system, everything=True)
    assert [(check.name, check.ok, check.output) for check in results] == [
        ("10-a", True, "first"),
        ("20-b", True, "from etc"),
    ]


def test_both_output_streams_of_a_check_are_stored_and_only_its_status_counts(device: Device) -> None:
    bad = run_check(device.check("a", "echo out; echo err >&2; exit 3"), 5)
    assert (bad.ok, bad.output.splitlines()) == (False, ["out", "err"])
    assert run_check(device.check("b", "echo FAILED >&2"), 5).ok
    broken = run_check(device.put("usr/lib/edge-osbuild/health.d/c", "#!/no/such/program\n"), 5)
    assert not broken.ok
    assert "cannot be run" in broken.output


def test_a_check_that_hangs_is_killed_with_its_children(device: Device) -> None:
    path = device.check("a", f"sleep 60 & echo $! > {device.root}/child; echo waiting; wait")
    begin = time.monotonic()
    result = run_check(path, 0.5)
    assert time.monotonic() - begin < 5
    assert not result.ok
    assert result.output == "no answer within 0.5 s\nwaiting"
    child = int((device.root / "child").read_text())
    for _ in range(50):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the check's child still runs")


def test_a_check_that_cannot_be_killed_does_not_delay_the_verdict(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KILL_TIMEOUT", 0.2)
    begin = time.monotonic()
    # the process in a new session is not killed, and keeps the output open
    result = run_check(device.check("a", "echo begun; setsid sleep 5; sleep 5"), 0.3)
    assert (result.ok, result.output) == (False, "no answer within 0.3 s\nbegun")
    assert time.monotonic() - begin < 4


def test_a_round_stops_at_the_first_failure_unless_it_is_the_last(device: Device) -> None:
    device.check("10-a", "exit 1")
    device.check("20-b", "exit 1")
    assert [check.name for check in run_round(device.system, everything=False)] == ["10-a"]
    assert [check.name for check in run_round(device.system, everything=True)] == ["10-a", "20-b"]


def test_checks_that_appear_while_another_one_waits_belong_to_the_round(device: Device) -> None:
    """The first check waits for the boot, and the seed writes its own checks meanwhile."""
    folder = device.root / "etc/edge-osbuild/health.d"
    write = f"echo 'echo closed; exit 1' | sed '1i #!/bin/sh' > {folder}/NAME; chmod +x {folder}/NAME; "
    device.check("10-a", f"mkdir -p {folder}; " + write.replace("NAME", "05-early") + write.replace("NAME", "99-shop"))
    device.check("20-b", "true")
    results = run_round(device.system, everything=False)
    assert [(check.name, check.ok, check.output) for check in results] == [
        ("05-early", False, "closed"),
        ("10-a", True, ""),
    ]
    (folder / "05-early").unlink()
    device.check("10-a", "true")
    results = run_round(device.system, everything=False)
    assert [(check.name, check.ok) for check in results] == [("10-a", True), ("20-b", True), ("99-shop", False)]


def test_checks_that_hang_do_not_wait_for_each_other_in_the_last_round(device: Device) -> None:
    for name in "abcd":
        device.check(name, f"echo {name}; exec sleep 60")
    begin = time.monotonic()
    results = run_round(device.system, everything=True, timeout=1)
    assert time.monotonic() - begin < 3.5
    assert [(check.name, check.output.splitlines()[-1]) for check in results] == [(name, name) for name in "abcd"]


def test_a_manual_health_command_does_not_decide_on_a_boot(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "System", lambda: device.system)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check = device.check("a", "true")
    early = health.RoundResult(False, False, 20.0, ())
    for before, stored in ((None, None), (early, (False, False)), (replace(early, final=True), (True, True))):
        if before:
            health.store_result(device.system, before)
        assert main(["health"]) == 0
        verdict = device.system.json(health.RESULT_FILE)
        assert (stored is None and not verdict) or (verdict["final"], verdict["healthy"]) == stored
    check.write_text("#!/bin/sh\nexit 1\n")
    assert main(["health"]) == 1
    assert (device.result["final"], device.result["healthy"]) == (True, False)


def test_rounds_repeat_until_all_checks_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = Device(tmp_path, uptime=5.0)
    device.check("a", f"echo x >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) -ge 3 ] || {{ echo no; exit 1; }}")
    verdict = await_verdict(device.system, deadline=60, pause=0.01)
    assert (verdict.healthy, verdict.final) == (True, True)
    assert (tmp_path / "runs").read_text().count("x") == 3
    assert capsys.readouterr().out == "after 5 s: a: no\n" * 2, "the journal says what the boot waits for"


def test_pauses_leave_most_of_a_slow_processor_to_the_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(tmp_path, uptime=5.0)
    device.check("a", f"echo x >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) -ge 4 ]")
    rests: list[float] = []
    clock = iter((0.0, 0.4, 0.4, 0.401, 0.401, 99.0, 99.0))
    monkeypatch.setattr(health, "processor_time", lambda: next(clock))
    monkeypatch.setattr(health, "time", SimpleNamespace(sleep=rests.append, monotonic=time.monotonic))
    assert await_verdict(device.system, deadline=60).healthy
    assert rests == [pytest.approx(4.0, abs=0.5), 1.0, health.LONGEST_PAUSE]


def test_the_time_that_a_check_has_waited_shortens_the_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(tmp_path, uptime=5.0)
    device.check("a", f"echo x >> {tmp_path}/runs; sleep 2; [ $(wc -l < {tmp_path}/runs) -ge 2 ]")
    rests: list[float] = []
    monkeypatch.setattr(health, "processor_time", iter((0.0, 0.3, 0.3)).__next__)
    monkeypatch.setattr(health, "time", SimpleNamespace(sleep=rests.append, monotonic=time.monotonic))
    assert await_verdict(device.system, deadline=60, pause=0.01).healthy
    assert rests == [pytest.approx(1.0, abs=0.5)]


def test_a_pause_ends_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(tmp_path, uptime=5.0)
    rests: list[float] = []
    device.check("a", "exit 1")

    def sleep(seconds: float) -> None:
        rests.append(seconds)
        device.put("proc/uptime", f"{5 + seconds} 1.0\n")

    monkeypatch.setattr(health, "processor_time", iter((0.0, 99.0, 99.0)).__next__)
    monkeypatch.setattr(health, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    assert not await_verdict(device.system, deadline=8).healthy
    assert rests == [3.0]


def test_the_processor_time_of_checks_is_measured(tmp_path: Path) -> None:
    before = health.processor_time()
    run_check(Device(tmp_path).check("a", "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done"), 30)
    assert health.processor_time() > before


def test_the_verdict_at_the_deadline_is_final_and_contains_every_check(device: Device) -> None:
    device.check("10-a", "echo no; exit 1")
    device.check("20-b", "echo yes")
    verdict = await_verdict(device.system, deadline=10, pause=0.01)
    assert (verdict.healthy, verdict.final) == (False, True)
    assert [(check.name, check.ok) for check in verdict.checks] == [("10-a", False), ("20-b", True)]


def decide(device: Device) -> tuple[int, bool]:
    """(exit status, whether it rebooted)"""
    rebooted = []
    status = judge_boot(device.system, deadline=10, reboot=lambda: rebooted.append(True))
    return status, bool(rebooted)


def test_a_healthy_boot_prints_one_line_on_the_console(tmp_path: Path) -> None:
    device = Device(tmp_path, uptime=42.4)
    device.check("a", "true")
    device.entries("edge-a+2-1.efi", booted="edge-a+2-1.efi")
    assert decide(device) == (0, False)
    assert device.console.strip() == "edge-osbuild: boot complete: minimal 1.0.0 slot a healthy after 42 s"


@pytest.mark.parametrize(
    ("entries", "booted", "reboots", "reason"),
    [
        (["edge-a+2-1.efi"], "edge-a+2-1.efi", True, "slot a has 2 tries left"),
        (["edge-a+2-1.efi", "edge-b.efi"], "edge-a+2-1.efi", True, "slot a has 2 tries left"),
        (["edge-a+0-3.efi", "edge-b.efi"], "edge-a+0-3.efi", True, "slot b is booted instead"),
        (["edge-a+0-3.efi", "edge-b+1-2.efi"], "edge-a+0-3.efi", True, "slot b is booted instead"),
        (["edge-a+0-3.efi", "edge-b+0-3.efi"], "edge-a+0-3.efi", False, "no slot has a try left"),
        (["edge-a+0-3.efi"], "edge-a+0-3.efi", False, "no slot has a try left"),
        (["edge-a.efi"], None, False, "slot a was good before this boot"),
        (["edge-a.efi", "edge-b+3.efi"], None, False, "slot a was good before this boot"),
        (["edge-a.efi"], "edge-a+2-1.efi", False, "slot a was good before this boot"),
        ([], "edge-a+2-1.efi", True, "slot a has 2 tries left"),
        ([], "edge-a+0-3.efi", False, "no slot has a try left"),
        ([], None, False, "slot a was good before this boot"),
    ],
)
def test_a_failed_boot_is_rebooted_only_while_some_slot_has_a_try(
    device: Device, entries: list[str], booted: str | None, reboots: bool, reason: str
) -> None:
    device.check("10-a", "echo it is broken; exit 1")
    device.entries(*entries, booted=booted)
    assert decide(device) == (1, reboots)
    assert "boot failed: minimal 1.0.0 slot a not healthy" in device.console
    assert reason in device.console
    assert (device.result["final"], device.result["healthy"]) == (True, False)


def test_no_final_verdict_is_stored_before_the_reboot_is_requested(device: Device) -> None:
    """A final verdict ends the watch of `guard-trial`."""
    device.check("10-a", "exit 1")
    device.entries("edge-a+2-1.efi", booted="edge-a+2-1.efi")

    def refuse() -> None:
        raise Problem("systemd does not answer")

    with pytest.raises(Problem):
        judge_boot(device.system, deadline=10, reboot=refuse)
    assert not (device.root / "run/edge-osbuild/health.json").exists()


def test_a_reboot_that_systemd_refuses_is_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\ntest "$*" = "reboot --force --force"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    systemd.force_reboot()
    assert (tmp_path / "calls").read_text().splitlines() == [
        "--no-block reboot", "reboot --force", "reboot --force --force",
    ]  # fmt: skip
    with pytest.raises(Problem, match="exit status 1"):
        systemd.reboot()


def test_a_hanging_console_or_data_partition_does_not_prevent_a_reboot(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "TIMEOUT", 0.2)
    device.check("10-a", "exit 1")
    device.entries("edge-a+2-1.efi", booted="edge-a+2-1.efi")
    (device.root / "dev/console").unlink()
    os.mkfifo(device.root / "dev/console")  # open(2) blocks until there is a reader
    with records.state_lock(device.system):
        assert decide(device) == (1, True)
    assert "rebooting: slot a has 2 tries left" in capsys.readouterr().out
    for thread in threading.enumerate():
        if thread.name.endswith("(store)"):  # it continues after the lock is released
            thread.join(30)
    folder = device.root / records.FOLDER.lstrip("/")
    folder.rename(folder.with_name("gone"))
    with mount_tmpfs(folder, 65536), full(folder):
        assert decide(device) == (1, True)
    assert "the verdict cannot be stored: " in capsys.readouterr().out
    folder.rmdir()
    folder.write_text("a file where a folder should be")
    assert decide(device) == (1, True)
    assert "update is damaged: not a folder; kept as update.damaged" in capsys.readouterr().err
    assert (folder / "verdict.json").is_file()
    (device.root / "dev/console").open().close()


def test_reboots_end_for_all_entries(tmp_path: Path) -> None:
    """As in systemd-boot, each boot of a counted entry uses a try, and entries without tries are sorted last."""
    slots: dict[str, tuple[int | None, int]] = {"a": (3, 0), "b": (2, 0)}
    for number in range(20):
        usable = sorted((left == 0, slot) for slot, (left, _) in slots.items())
        slot = usable[0][1]
        left, done = slots[slot]
        if left:
            slots[slot] = left, done = left - 1, done + 1
        device = Device(tmp_path / str(number))
        device.put("proc/cmdline", f"edge.slot={slot}")
        device.check("10-a", "exit 1")
        names = {key: f"edge-{key}+{rest}-{used}.efi" for key, (rest, used) in slots.items()}
        device.entries(*names.values(), booted=names[slot])
        if not decide(device)[1]:
            break
    assert number == 4  # three tries of a, two of b; the last boot is not rebooted
    assert {left for left, _ in slots.values()} == {0}


def test_the_results_are_an_aligned_table(device: Device) -> None:
    device.check("10-a", "echo fine")
    device.check("20-long", "echo one; echo two; exit 1")
    assert result_lines(run_round(device.system, everything=True)) == [
        "ok  10-a     fine",
        "BAD 20-long  one",
        "             two",
    ]


def test_the_shipped_checks_are_executable_and_valid_shell() -> None:
    folder = Path(__file__).parents[2] / "overlays/base"
    names = [path.name for path in find_checks(System(folder))]
    assert names == ["10-systemd", "15-seed", "20-storage", "30-agent"]
    for path in find_checks(System(folder)):
        assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
    assert health.FOLDERS[0] == "/usr/lib/edge-osbuild/health.d"


GUARD = paths.PROJECT / "overlays/base/usr/lib/edge-osbuild/guard-trial"


def run_guard(
    folder: Path, verdict: health.RoundResult | None, systemctl: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `guard-trial` with files of `folder` instead of the device's, at an uptime of 1000 s."""
    system = System(folder)
    if verdict:
        health.store_result(system, verdict)
    image = system.path("/usr/lib/edge-osbuild/image.json")
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_text(json.dumps({"update": {"deadline": 99999}, "health": {"deadline": 300}}, indent=2))
    (folder / "uptime").write_text("1000.50 900.00\n")
    (folder / "systemctl").write_text(f"#!/bin/sh\necho systemctl $*\n{systemctl}")
    (folder / "systemctl").chmod(0o755)
    text = GUARD.read_text().replace("/proc/uptime", str(folder / "uptime")).replace("/dev/console", "/dev/null")
    for name in ("/run/edge-osbuild", "/usr/lib/edge-osbuild"):
        text = text.replace(f"={name}", f"={folder}{name}")
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, env=environment, timeout=30)


def test_a_trial_without_a_verdict_is_rebooted_and_one_with_a_verdict_is_not(tmp_path: Path) -> None:
    early = health.RoundResult(False, False, 20.0, ())
    for verdict, reboots in ((None, True), (early, True), (replace(early, final=True), False)):
        result = run_guard(tmp_path, verdict)
        assert ("systemctl --no-block reboot" in result.stdout) is reboots, result
        assert ("no verdict after 360 s" in result.stdout) is reboots, result
    result = run_guard(tmp_path, early, 'test "$*" = "reboot --force --force"')
    assert [line.partition(" ")[2] for line in result.stdout.splitlines() if line.startswith("systemctl")] == [
        "--no-block reboot", "reboot --force", "reboot --force --force",
    ], "the same calls as in `force_reboot`"  # fmt: skip

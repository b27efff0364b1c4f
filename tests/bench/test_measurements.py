"""The measurements of `make bench`: what they conclude from what they read."""

import ast
import base64
import io
import json
import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from bench import boot, idle, memory, pods, throughput
from bench.cold import UPSTREAM, WARM
from bench.figure import Figure, Measured, figures_table, format_value
from bench.guest import ConsoleWatch
from bench.site import BenchSite
from bench.timeline import Span, Timeline, draw_timelines
from rich.console import Console

from osbuild.config.affected import image_keys
from osbuild.config.board import load_board as board
from osbuild.config.load import find_profile, load_profile
from osbuild.host.cache import Cache
from osbuild.host.paths import PROJECT
from osbuild.inputs.lock import lock_path
from osbuild.pipeline.resolve import request_key
from osbuild.shared.errors import Error

MEMINFO = """\
MemTotal:        2977292 kB
MemFree:         2011704 kB
MemAvailable:    2271296 kB
Buffers:            7056 kB
Cached:           445712 kB
SReclaimable:      17508 kB
HugePages_Total:       3
"""
UNITS = """\
Id=kube-apiserver.service
InactiveExitTimestampMonotonic=75131198
ActiveEnterTimestampMonotonic=122917426

Id=k3s-server.service
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0

Id=kine.service
InactiveExitTimestampMonotonic=75091310
ActiveEnterTimestampMonotonic=75091310

Id=boot-complete.target
InactiveExitTimestampMonotonic=154901263
ActiveEnterTimestampMonotonic=154901263
"""

PC = board("x86_64")


def test_a_figure_at_its_target_is_good_and_above_it_is_not() -> None:
    assert Figure("n", "t", 2.0, "s", 2).status == "ok"
    assert Figure("n", "t", 2.01, "s", 2).status == "OVER"
    assert Figure("n", "t", 9.0, "s").status == ""
    assert Figure("n", "t", 2.01, "s", 2).to_json()["over"] is True


@pytest.mark.parametrize(("value", "text"), [(0.243, "0.24 s"), (12.34, "12.3 s"), (238.4, "238 s")])
def test_small_figures_have_more_digits(value: float, text: str) -> None:
    assert format_value(value, "s") == text


def test_the_table_says_what_is_over_its_target() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(figures_table([Measured([Figure("a", "build [1]", 3, "s", 2), Figure("b", "seed", 1, "s", 2)], "")]))
    lines = console.export_text().splitlines()
    (over,) = [line for line in lines if "OVER" in line]
    assert "build [1]" in over and "3.00 s" in over and "≤ 2 s" in over


def test_memory_in_use_is_what_is_neither_free_nor_cache() -> None:
    values = memory.parse_meminfo(MEMINFO)
    assert memory.used_memory(values) == (2977292 - 2011704 - 7056 - 445712 - 17508) * 1024
    assert values["HugePages_Total"] == 3
    with pytest.raises(Error, match="SReclaimable"):
        memory.used_memory({name: size for name, size in values.items() if name != "SReclaimable"})


def test_what_free_says_is_read_from_its_own_column() -> None:
    text = "               total        used        free\nMem:      3048747008   710557696  2071949312\nSwap: 0 0 0\n"
    assert memory.free_used(text) == 710557696
    with pytest.raises(Error):
        memory.free_used("")


def test_processor_time_is_what_the_processors_were_not_idle() -> None:
    assert idle.busy_seconds("intr 9\ncpu  100 20 300 5000 600 7 8 90 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n") == 4.35
    with pytest.raises(Error, match="cpu"):
        idle.busy_seconds("cpu0 1 1 1 1 1 1 1 1 0 0\n")
    text = "/sys/fs/cgroup/system.slice/k3s-server.service/cpu.stat:usage_usec 2500000\ncpu 1 2\n"
    assert idle.group_seconds(text) == {"k3s-server.service": 2.5}


def test_the_guest_asks_for_dns_with_a_unit_of_its_own() -> None:
    credential = pods.asking_arguments()[1].partition("systemd.extra-unit.bench-dns.service=")[2]
    command = base64.b64decode(credential).decode().partition("-c ")[2]
    program = ast.literal_eval(command)  # systemd's escapes are those of Python
    assert program == pods.ASK and compile(program, "ask", "exec") and pods.RESULT in program
    assert compile(pods.CREATE, "create", "exec")


def test_the_receiver_counts_what_the_sender_has_sent(tmp_path: Path) -> None:
    names = {"receive": throughput.RECEIVE, "send": throughput.SEND}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, program in names.items():
        (tmp_path / name).write_text(program.replace(str(throughput.PORT), str(port)))
    receiver = subprocess.Popen([sys.executable, tmp_path / "receive"], stdout=subprocess.PIPE, text=True)
    subprocess.run([sys.executable, tmp_path / "send", "127.0.0.1", "0.5"], check=True, timeout=60)
    assert float(receiver.communicate(timeout=60)[0]) > 2**20


def test_units_that_were_not_started_have_no_time_and_are_not_drawn() -> None:
    units = boot.parse_units(UNITS)
    assert units["kube-apiserver.service"] == (75.131198, 122.917426)
    assert units["k3s-server.service"] == (None, None)
    assert [name for name, _ in boot.started_units(units)] == ["kine", "kube-apiserver"]


def test_times_in_kernel_and_journal_lines() -> None:
    assert boot.parse_timestamp("[    4.695379] Run /init as init process") == 4.695379
    assert boot.parse_timestamp("[  151.375707] bench kubelet[831]: ready") == 151.375707
    assert boot.parse_timestamp("") is None


def test_stages_follow_each_other_from_power_on() -> None:
    spans = boot.boot_phases({"firmware": 2.0, "kernel": 5.5, "Ready": 60.0})
    assert spans == (Span("firmware", 0.0, 2.0), Span("kernel", 2.0, 5.5), Span("Ready", 5.5, 60.0))
    with pytest.raises(Error, match="kernel"):
        boot.boot_phases({"firmware": 2.0, "kernel": None})
    with pytest.raises(Error, match="before it began"):
        boot.boot_phases({"firmware": 2.0, "kernel": 1.0})


def test_the_end_of_the_firmware_is_recognised_even_in_split_output() -> None:
    watch = ConsoleWatch()
    for piece in (b"BdsDxe: loading Boot0001\r\nBdsDxe: star", b"ting \x1b[0m"):
        watch.hear(piece)
    assert watch.handed_over is None
    watch.hear(b"Boot0001 from PciRoot\r\n")
    first = watch.handed_over
    watch.hear(b"BdsDxe: starting Boot0001")
    assert first is not None and watch.handed_over == first


def test_the_delay_of_a_commit_begins_when_node_and_images_are_ready() -> None:
    ready = (Span("Ready", 0.0, 60.0),)
    imported = (Span("edge-images", 50.0, 70.0), Span("kubelet", 20.0, 74.0))
    assert Timeline(ready, imported, 75.0, 0.05, "kubelet").commit_delay == 5.0
    assert Timeline(ready, (), 75.0, 0.05, "kubelet").commit_delay == 15.0


def test_the_picture_is_svg_with_every_stage_and_unit() -> None:
    phases = boot.boot_phases({"firmware": 2.0, "A & B": 5.0, "Ready": 60.0})
    timeline = Timeline(phases, (Span("<unit>", 3.0, 70.0),), 65.0, 0.05, "kubelet")
    root = ElementTree.fromstring(draw_timelines({"first boot": timeline, "second boot": timeline}))
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["firmware: 0.00 to 2.00 s", "A & B: 2.00 to 5.00 s", "Ready: 5.00 to 60.00 s",
                      "<unit>: 3.00 to 70.00 s"] * 2  # fmt: skip
    width = float(root.attrib["width"])
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(bar.get("x", "0")) + float(bar.attrib["width"]) <= width


@pytest.fixture
def site(tmp_path: Path) -> BenchSite:
    (tmp_path / "site").mkdir()
    return BenchSite(tmp_path / "site", tmp_path, Cache(tmp_path / "cache"))


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def test_the_profile_that_is_measured_makes_the_image_of_the_shipped_one(site: BenchSite) -> None:
    (site.folder / "copy").mkdir()
    copy = site.profile("copy", "edge-server", {"overlays": site.overlays("copy", "edge-server")})
    shipped, copied = load_profile(find_profile("edge-server")), load_profile(copy)
    assert request_key(copied, PC) == request_key(shipped, PC)
    assert {**image_keys(copied.profile), "overlays": 0} == {**image_keys(shipped.profile), "overlays": 0}
    assert content(lock_path(copied)) == content(lock_path(shipped))
    assert copied.profile.users[0].name == "bench"
    trees = [copy.parent / name for name in copied.profile.overlays]
    assert [tree.name for tree in trees] == list(shipped.profile.overlays)
    assert all(tree.is_dir() and copy.parent in tree.parents for tree in trees)


def test_the_cold_profile_is_not_locked_and_asks_for_no_k3s(site: BenchSite) -> None:
    path = site.profile("cold", "edge-server", {"kubernetes": UPSTREAM}, lock=False)
    assert not lock_path(load_profile(path)).exists()
    assert load_profile(path).profile.kubernetes.distribution == "upstream"
    assert not {"debs", "apt", "tools", "rootfs", "kernel", "initrd", "repositories"} & set(WARM)
    assert yaml.safe_load(path.read_text())["name"] == "edge-server"


def test_a_wrong_name_is_wrong_usage() -> None:
    env = {**os.environ, "PYTHONPATH": "qemu-tests"}
    command = [sys.executable, "-m", "bench", "--only", "tea"]
    result = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)
    assert result.returncode == 2 and "tea" in result.stderr and "Traceback" not in result.stderr


def test_what_is_measured_can_be_written_as_json() -> None:
    measured = Measured([Figure("a", "build", 3, "s", 2)], "meaning", {"steps": [1]})
    assert json.loads(json.dumps(measured.to_json()))["figures"][0]["over"] is True

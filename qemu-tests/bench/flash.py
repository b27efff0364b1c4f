"""The time to write an image, against dd(1) that writes and flushes the same bytes to the same file."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.formats.bmap import Range
from osbuild.host import log
from osbuild.host.run import run_command
from osbuild.image.block_map import CHUNK, find_used_ranges
from osbuild.inputs.build_manifest import DISK
from osbuild.shared.errors import Error

BASE = "edge-server"
TIMES = 7
RATE = 0.95  # of dd's, at least
MB = 10**6


def measure(site: BenchSite) -> Measured:
    """Write with flash and dd alternately. Raises `Error`."""
    image = site.folder_of(site.image(BASE)) / DISK
    ranges, target = find_used_ranges(image), site.folder / "flash-target"
    try:
        fill_file(target, image.stat().st_size)
        with log.step("by turns"):
            rounds = [(time_flash(image, target), time_dd(image, target, ranges)) for _ in range(TIMES + 1)][1:]
    finally:
        target.unlink(missing_ok=True)
    size = sum(extent.size for extent in ranges)
    flash_seconds, dd_seconds = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = flash_seconds / dd_seconds
    return Measured(
        [
            Figure("flash_time", "flash: time to write and flush ÷ time of dd", ratio, "×", round(1 / RATE, 3)),
            Figure("flash_rate", "  its rate", size / MB / flash_seconds, "MB/s"),
            Figure("flash_dd_rate", "  dd's rate", size / MB / dd_seconds, "MB/s"),
        ],
        f"The {size} mapped bytes of the disk image of {BASE} ({image.stat().st_size} bytes, in {len(ranges)} ranges), "
        "are written to a file whose blocks are allocated already. The time of edge-osbuild is `seconds.write` of "
        "`edge-osbuild flash --json`: wiping the beginning, writing every mapped range and the moved table, and the "
        "flush, without reading back, which dd does not do either. dd writes the same ranges of the same image to the "
        "same offsets: bs=4M oflag=direct, and conv=fsync for the last range. Alternating, with the image in the page "
        f"cache; medians of {TIMES} after one round that does not count. "
        f"{1 / RATE:.3f} of dd's time is {RATE} of its rate.",
        {"mapped": size, "rounds": rounds},
    )


def fill_file(path: Path, size: int) -> None:
    """Write a file without holes, so that neither side spends time on the allocation of blocks."""
    noise = os.urandom(CHUNK)
    with log.step(f"a target of {size / MB:.0f} MB"), path.open("wb") as file:
        for start in range(0, size, CHUNK):
            file.write(noise[: min(CHUNK, size - start)])
        os.fsync(file.fileno())


def time_flash(image: Path, target: Path) -> float:
    """Return the seconds until flash has written and flushed everything."""
    command = [sys.executable, "-m", "osbuild", "flash", str(image), str(target), "--yes", "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Error(f"flash failed: {result.stderr.strip()}", where=str(target))
    return float(json.loads(result.stdout)["targets"][0]["seconds"]["write"])


def time_dd(image: Path, target: Path, ranges: Sequence[Range]) -> float:
    """Return the seconds of all dd commands, one for each range."""
    begin = time.monotonic()
    for extent in ranges:
        flush = ",fsync" if extent is ranges[-1] else ""
        run_command(
            [
                "dd", f"if={image}", f"of={target}", "bs=4M", f"skip={extent.offset}", f"seek={extent.offset}",
                f"count={extent.size}", "iflag=skip_bytes,count_bytes", "oflag=direct,seek_bytes",
                f"conv=notrunc{flush}", "status=none",
            ]
        )  # fmt: skip
    return time.monotonic() - begin

"""How fast an image is written, against dd(1) with the same flush of the same bytes."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from osbuild import log
from osbuild.bench.figure import Figure, Measured
from osbuild.bench.pace import paced
from osbuild.bench.site import Site
from osbuild.errors import Error
from osbuild.flash.mapping import CHUNK, bmap_of
from osbuild.run import run

BASE = "edge-server"
TIMES = 3
RATE = 0.95  # of dd's, at least
MB = 10**6
CARD = 150 * MB  # bytes a second: faster than any SD card at the UHS-I bus, whose limit is 104 MB/s


def measure(site: Site) -> Measured:
    """Write both by turns, paced like a card and as fast as the disk goes. Raises `Error`."""
    image = site.folder_of(site.image(BASE)) / "disk.img"
    dense, target, other = (site.folder / name for name in ("mapped.img", "flash-target", "dd-target"))
    try:
        size = gather(image, dense)
        fill(target, image.stat().st_size)
        fill(other, size)
        with paced(site.folder, CARD) as slow:
            card = rounds(image, dense, target, other)
        disk = rounds(image, dense, target, other)
    finally:
        for path in (dense, target, other):
            path.unlink(missing_ok=True)
    ours, theirs = medians(card)
    fastest = medians(disk)
    pace = f"at most {CARD / MB:.0f} MB/s, as a card" if slow else "as fast as the disk goes"
    return Measured(
        [
            Figure("flash_time", "flash: time to write and flush, against dd", ours / theirs, "×", round(1 / RATE, 3)),
            Figure("flash_rate", "  its rate", size / MB / ours, "MB/s"),
            Figure("flash_dd_rate", "  dd's rate", size / MB / theirs, "MB/s"),
            Figure("flash_disk", "  the same, as fast as the disk goes", fastest[0] / fastest[1], "×"),
        ],
        f"The {size} mapped bytes of the disk image of {BASE} ({image.stat().st_size} bytes), into a file whose blocks "
        f"are all there already, {pace} (the kernel's limit, the same for both). Ours is `seconds.write` of "
        "`edge-osbuild flash --json`: wiping the beginning, every mapped range, the moved table, and the flush; not "
        "reading it back, which dd does not do. dd writes the same bytes, gathered in one file: bs=4M oflag=direct "
        f"conv=fsync. By turns, the image in the page cache, medians of {TIMES} after one that does not count. "
        f"{1 / RATE:.3f} of dd's time is {RATE} of its rate.",
        {"mapped": size, "paced": slow, "rounds": {"card": card, "disk": disk}},
        () if slow else ("flash: this host cannot slow a disk down (cgroups), so it was measured as fast as it goes",),
    )


def rounds(image: Path, dense: Path, target: Path, other: Path) -> list[tuple[float, float]]:
    """Seconds of ours and of dd, by turns."""
    with log.step("by turns"):
        return [(flash(image, target), dd(dense, other)) for _ in range(TIMES + 1)][1:]


def medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Of ours, and of dd."""
    return statistics.median(ours for ours, _ in times), statistics.median(theirs for _, theirs in times)


def gather(image: Path, dense: Path) -> int:
    """Put everything of an image that is mapped into one file without holes; its bytes."""
    with image.open("rb") as source, dense.open("wb") as made:
        for each in bmap_of(image).ranges:
            source.seek(each.offset)
            for start in range(0, each.size, CHUNK):
                made.write(source.read(min(CHUNK, each.size - start)))
        return made.tell()


def fill(path: Path, size: int) -> None:
    """A file without holes, written once: neither side should pay for finding it a place."""
    noise = os.urandom(CHUNK)
    with log.step(f"a target of {size / MB:.0f} MB"), path.open("wb") as file:
        for start in range(0, size, CHUNK):
            file.write(noise[: min(CHUNK, size - start)])
        os.fsync(file.fileno())


def flash(image: Path, target: Path) -> float:
    """Seconds until everything was written and flushed."""
    command = [sys.executable, "-m", "osbuild", "flash", str(image), str(target), "--yes", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Error(f"flash failed: {done.stderr.strip()}", where=str(target))
    return float(json.loads(done.stdout)["targets"][0]["seconds"]["write"])


def dd(source: Path, target: Path) -> float:
    """Seconds of the whole command."""
    begin = time.monotonic()
    run(["dd", f"if={source}", f"of={target}", "bs=4M", "oflag=direct", "conv=fsync,notrunc", "status=none"])
    return time.monotonic() - begin

"""The memory that an idle guest uses."""

import time
from collections.abc import Mapping

from bench.figure import Figure, Measured
from bench.guest import Booted, boot_image
from bench.site import BenchSite
from osbuild.host import log
from osbuild.shared.errors import Error

MB = 10**6
IDLE_SECONDS = 60
MEANING = (
    f"{IDLE_SECONDS} s after boot-complete.target, with one SSH session: MemTotal − MemFree − Buffers − Cached − "
    "SReclaimable of /proc/meminfo (proc(5)), which `free` called `used` before procps 4. Beside it the figure of "
    "today's `free`: MemTotal − MemAvailable, which also counts the kernel's reserves. 1 MB is 1,000,000 bytes."
)


def measure(site: BenchSite) -> Measured:
    """Boot the image without Kubernetes and measure its memory when idle."""
    profile = site.image("minimal")
    with boot_image(site, profile, 2**30) as machine:
        machine.wait_complete()
        figures, metadata = measure_idle(machine, "minimal", 120)
    return Measured(figures, MEANING, metadata)


def measure_idle(machine: Booted, name: str, target: float) -> tuple[list[Figure], dict[str, object]]:
    """Wait for a minute after a complete boot, then read the guest's memory."""
    with log.step(f"{IDLE_SECONDS} s of idling"):
        time.sleep(IDLE_SECONDS)
    output = machine.guest.run("cat /proc/meminfo; echo; free -b; echo; ps -eo rss=,comm= --sort=-rss").stdout
    meminfo, free, processes = output.split("\n\n", 2)
    values = parse_meminfo(meminfo)
    figures = [
        Figure(f"memory_{name}", f"{name}: memory in use, idle", used_memory(values) / MB, "MB", target),
        Figure(f"memory_{name}_free", "  as `free` counts it (total − available)", free_used(free) / MB, "MB"),
    ]
    largest = [line.split(maxsplit=1) for line in processes.splitlines()[:10]]
    metadata = {
        "meminfo": values,
        "processes": [
            {"name": arguments[1], "resident": int(arguments[0]) * 1024} for arguments in largest if len(arguments) == 2
        ],
    }
    return figures, {f"memory_{name}": metadata}


def parse_meminfo(text: str) -> dict[str, int]:
    """Parse /proc/meminfo to bytes (proc_meminfo(5)); lines without a unit are counts."""
    values = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields = value.split()
        if fields:
            values[name] = int(fields[0]) * (1024 if fields[1:] == ["kB"] else 1)
    return values


def used_memory(values: Mapping[str, int]) -> int:
    """Return the bytes that are neither free nor a cache. Raises `Error` if /proc/meminfo lacks a line."""
    try:
        free = sum(values[name] for name in ("MemFree", "Buffers", "Cached", "SReclaimable"))
        return values["MemTotal"] - free
    except KeyError as error:
        raise Error(f"the guest's /proc/meminfo has no line {error}") from error


def free_used(text: str) -> int:
    """Return the column `used` of `free -b` (free(1)). Raises `Error` if it is missing."""
    for line in text.splitlines():
        if line.startswith("Mem:"):
            return int(line.split()[2])
    raise Error("the guest's `free` says nothing about memory")

"""The processor time that an idle guest needs."""

from bench.figure import Figure
from bench.guest import Booted
from osbuild.host import log
from osbuild.shared.errors import Error

SECONDS = 120
TICKS = 100  # of /proc/stat, in a second: USER_HZ (proc_stat(5))
READ = "cat /proc/stat; grep -H usage_usec /sys/fs/cgroup/*/cpu.stat /sys/fs/cgroup/system.slice/*/cpu.stat"
MEANING = (
    f"Processor time: what /proc/stat (proc_stat(5)) counts in {SECONDS} s after the memory was read, except idle, "
    "iowait and steal, per minute. In a second of it TCG executes far fewer instructions than hardware."
)


def measure_processor(machine: Booted, name: str, target: float | None) -> tuple[list[Figure], dict[str, object]]:
    """Measure the processor time of a minute, and the largest parts by control group. Raises `Error`."""
    with log.step(f"{SECONDS} s of idling"):
        # One session, so that no login is counted.
        command = f"sudo sh -c '{READ}; echo; sleep {SECONDS}; {READ}'"
        begin, end = machine.guest.run(command, timeout=SECONDS + 120).stdout.split("\n\n", 1)
    minutes = SECONDS / 60
    spent = (busy_seconds(end) - busy_seconds(begin)) / minutes
    before, after = group_seconds(begin), group_seconds(end)
    groups = {group: (seconds - before.get(group, 0.0)) / minutes for group, seconds in after.items()}
    largest = sorted(groups.items(), key=lambda entry: -entry[1])[:10]
    figure = Figure(f"processor_{name}", f"{name}: processor time of a minute, idle, TCG", spent, "s", target)
    return [figure], {f"processor_{name}": {"seconds": spent, "groups": dict(largest)}}


def busy_seconds(text: str) -> float:
    """Return the processor time since the boot, in seconds. Raises `Error` if /proc/stat has no line `cpu`."""
    for line in text.splitlines():
        if line.startswith("cpu "):
            user, nice, system, _idle, _iowait, irq, softirq = map(int, line.split()[1:8])
            return (user + nice + system + irq + softirq) / TICKS
    raise Error("the guest's /proc/stat has no line `cpu`")


def group_seconds(text: str) -> dict[str, float]:
    """Return control group -> processor time in seconds, from lines PATH/cpu.stat:usage_usec NUMBER."""
    seconds = {}
    for line in text.splitlines():
        path, found, value = line.partition("/cpu.stat:usage_usec ")
        if found:
            seconds[path.rpartition("/")[2]] = int(value) / 1e6
    return seconds

"""The time from power-on to a Ready node, phase by phase."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import idle, memory, pods
from bench.figure import Figure, Measured
from bench.guest import COMPLETE, Booted, boot_image
from bench.site import BenchSite
from bench.timeline import Span, Timeline, draw_timelines
from osbuild.host.output import write_output
from osbuild.host.paths import display_path
from osbuild.shared.errors import Error

BASE = "edge-server"
MEMORY = 3 * 2**30
API = {"upstream": "kubernetes-server.service", "k3s": "k3s-server.service"}
KUBELET = {"upstream": "kubelet.service", "k3s": "k3s-server.service"}
# What flannel's program logs when it can give pods addresses.
NETWORK = {"upstream": "Pods are connected", "k3s": "Wrote flannel subnet file"}
# Units that are drawn below the phases, if the image has them.
UNITS = (
    "systemd-modules-load", "systemd-journald", "edge-identity", "edge-seed", "edge-cloud-init", "systemd-networkd",
    "edge-kubernetes-prepare", "containerd", "edge-images", "k3s-server", "kubernetes-server", "kubelet",
    "edge-sandbox", "edge-health",
)  # fmt: skip
PROPERTIES = "Id,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic"
MEANING = (
    f"{BASE} with its first seed, under TCG with 2 processors and {MEMORY >> 30} GiB, without other networks. "
    "Power-on is QEMU's event RESUME. The firmware ends with the line with which it starts the boot loader. Both times "
    "are from the host's clock, the later ones from the guest's monotonic clock. Ready is the time when the kubelet "
    "logs that its node is Ready. At a second boot the node's object is Ready from the start, and the kubelet logs "
    "nothing: then Ready is the verdict on the boot, which waits for a report of this boot's kubelet."
)


def measure(site: BenchSite) -> Measured:
    """Boot the image with Kubernetes for the first time, measure its memory when idle, and boot it a second time."""
    return measure_node(site, site.image(BASE))


def measure_node(site: BenchSite, profile: Path, *, suffix: str = "", ready: float | None = 50) -> Measured:
    """Measure the built image of `profile` as `measure` does. `suffix` ends the names of its figures.

    `ready` is the target for Ready, in seconds.
    """
    distribution = next(
        component.distribution for component in site.manifest(profile).components if component.name == "kubernetes"
    )
    name = f"{BASE}{suffix}"
    with boot_image(site, profile, MEMORY, extra=pods.asking_arguments()) as machine:
        machine.wait_complete()
        dns = pods.first_dns_answer(machine)
        used, metadata = memory.measure_idle(machine, name, 420)
        first = observe_boot(machine, distribution)
        processor = idle.measure_processor(machine, name, None if ready is None else 3)
        for measured, details in (processor, pods.measure_creation(machine, name)):
            used += measured
            metadata |= details
        machine.again()
        machine.wait_complete()
        second = observe_boot(machine, distribution)
        dns_second = pods.first_dns_answer(machine)
    picture = site.results / f"bench-boot{suffix}.svg"
    write_output(picture, draw_timelines({"first boot": first, "second boot": second}).encode())
    figures = [*used, Figure(f"ready{suffix}", "power-on to Ready, TCG, first boot", first.ready, "s", ready)]
    figures += [Figure(f"ready_{span.name}{suffix}", f"  {span.name}", span.seconds, "s") for span in first.phases]
    figures.append(Figure(f"complete{suffix}", "  power-on to boot complete", first.complete, "s"))
    if first.network is not None:
        figures.append(Figure(f"network{suffix}", "  power-on to pod network", first.network, "s"))
    figures.append(Figure(f"dns{suffix}", "  power-on to the first DNS answer", dns, "s"))
    title = "node Ready, images imported and pod network up, to boot complete, TCG, first boot"
    figures.append(Figure(f"commit_delay{suffix}", title, first.commit_delay, "s", 10))
    figures.append(Figure(f"ready_second{suffix}", "power-on to Ready, TCG, second boot", second.ready, "s"))
    figures += [
        Figure(f"ready_second_{span.name}{suffix}", f"  {span.name}", span.seconds, "s") for span in second.phases
    ]
    figures.append(Figure(f"complete_second{suffix}", "  power-on to boot complete", second.complete, "s"))
    figures.append(Figure(f"dns_second{suffix}", "  power-on to the first DNS answer", dns_second, "s"))
    boots = {"first_boot": asdict(first), "second_boot": asdict(second)}
    note = f"boot time line: {display_path(picture)}"
    meaning = " ".join((memory.MEANING, idle.MEANING, pods.MEANING, MEANING))
    return Measured(figures, meaning, {**metadata, **boots}, (note,))


def observe_boot(machine: Booted, distribution: str) -> Timeline:
    """Read the timeline of a complete boot from its guest. Raises `Error` if the end of a phase is unknown."""
    run = machine.guest.run
    zero, uncertain = machine.kernel_start()
    names = [f"{unit}.service" for unit in UNITS]
    units = parse_units(run(["systemctl", "show", "-p", PROPERTIES, *names, COMPLETE]).stdout)
    manager = run(["systemctl", "show", "--value", "-p", "UserspaceTimestampMonotonic"]).stdout
    init = run("sudo dmesg | grep -m1 'Run /init as init process'", check=False).stdout
    kubelet = (
        f"sudo journalctl -b -o short-monotonic -u {KUBELET[distribution]} --no-pager | grep -m1 'just became ready'"
    )
    health = "sudo journalctl -b -o short-monotonic -u edge-health.service --no-pager | grep -m1 'boot complete'"
    ready, witness = parse_timestamp(run(kubelet, check=False).stdout), "kubelet"
    if ready is None:
        ready, witness = parse_timestamp(run(health, check=False).stdout), "health check"
    connected = (
        f"sudo journalctl -b -o short-monotonic -u {KUBELET[distribution]} --no-pager"
        f" | grep -m1 '{NETWORK[distribution]}'"
    )
    network = parse_timestamp(run(connected, check=False).stdout)
    api = units.get(API[distribution], (None, None))
    start = machine.power_on()
    handed = machine.watch.handed_over

    def since(seconds: float | None) -> float | None:
        return None if seconds is None else zero + seconds - start

    marks = {
        "firmware": None if handed is None else handed - start,
        "boot loader": zero - start,
        "kernel": since(parse_timestamp(init)),
        "initrd": since(float(manager or 0) / 1e6),
        "units": since(api[0]),
        "API server": since(api[1]),
        "Ready": since(ready),
    }
    spans = [Span(name, zero + begin - start, zero + end - start) for name, (begin, end) in started_units(units)]
    complete = units.get(COMPLETE, (None, None))[1]
    if complete is None:
        raise Error(f"{COMPLETE} was never reached")
    return Timeline(boot_phases(marks), tuple(spans), zero + complete - start, uncertain, witness, since(network))


def boot_phases(marks: Mapping[str, float | None]) -> tuple[Span, ...]:
    """Return spans that end at `marks`, in seconds since power-on. Raises `Error` if a mark is missing or too early."""
    spans, begin = [], 0.0
    for name, end in marks.items():
        if end is None:
            raise Error(f"the guest does not report the end of the phase `{name}`", where="boot time line")
        if end < begin:
            raise Error(f"the phase `{name}` ended {begin - end:.2f} s before it began", where="boot time line")
        spans.append(Span(name, begin, end))
        begin = end
    return tuple(spans)


def parse_units(text: str) -> dict[str, tuple[float | None, float | None]]:
    """Return unit -> seconds by the guest's clock when it was started and when it was active (systemctl(1), `show`)."""
    units = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        times = [int(values.get(name, 0)) / 1e6 or None for name in PROPERTIES.split(",")[1:]]
        units[values.get("Id", "")] = (times[0], times[1])
    return units


def started_units(units: Mapping[str, tuple[float | None, float | None]]) -> Sequence[tuple[str, tuple[float, float]]]:
    """Return the services that were started, with begin and end, sorted by begin."""
    services: list[tuple[str, tuple[float, float]]] = []
    for name, (begin, end) in units.items():
        if name.endswith(".service") and begin is not None and end is not None and end >= begin:
            services.append((name.removesuffix(".service"), (begin, end)))
    return sorted(services, key=lambda entry: entry[1])


def parse_timestamp(line: str) -> float | None:
    """Return the seconds in brackets before a line of dmesg(1) or of journalctl(1)'s short-monotonic, or None."""
    match = re.match(r"\[\s*(\d+\.\d+)\]", line)
    return float(match[1]) if match else None

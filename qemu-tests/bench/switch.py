"""The downtime of a pod when its node switches slots, against a plain reboot."""

import statistics
import time
from dataclasses import asdict

from bench.answers import Answers, ask_repeatedly
from bench.device import DeviceUnderTest, device_under_test
from bench.download import STEPS, Fetched, download_version
from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.host import log
from osbuild.qemu.command import NETDEV

PORT = 30080
SERVICE = f"""
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 8080, nodePort: {PORT}}}]
"""
WAIT = 1800.0  # seconds, under emulation
# Commands that switch slots, each run after a plain reboot.
SWITCHES = ("edge-agent update switch", "edge-agent rollback", "edge-agent rollback")
MEANING = (
    "On a node with a cluster, a pod behind a NodePort gets five requests a second from outside. Downtime is the time "
    "from its last answer before the reboot to its first answer after. The plain reboot is `systemctl reboot`. The "
    "switch is to an installed version that differs by an overlay file, back by `edge-agent rollback`, and forth "
    "again. It includes leaving the cluster, the snapshot and the first boot from the other slot. Alternating, medians "
    f"of {len(SWITCHES)}. The switch to the next Kubernetes also includes the migration of the cluster's data."
)


def measure(site: BenchSite) -> Measured:
    """Measure the downtime of plain reboots and switches alternately. Raises `Error`."""
    downtime: dict[str, list[float]] = {"reboot": [], "overlay-only": [], "next": []}
    downloads: dict[str, Fetched] = {}
    with device_under_test(site, "server") as device:
        with ask_repeatedly(expose_pod(device)) as answers:
            answers.wait(300)
            downloads["overlay-only"] = download_version(device, "overlay-only", "--no-switch")
            for command in SWITCHES:
                downtime["reboot"].append(measure_downtime(device, answers, "systemctl reboot"))
                downtime["overlay-only"].append(measure_downtime(device, answers, command))
            downloads["next"] = download_version(device, "next", "--no-switch")
            downtime["next"].append(measure_downtime(device, answers, "edge-agent update switch"))
    reboot_seconds, switch_seconds = (statistics.median(downtime[name]) for name in ("reboot", "overlay-only"))
    next_seconds = downtime["next"][0]
    figures = [
        Figure("downtime", "downtime of a switch, against a plain reboot", switch_seconds / reboot_seconds, "×", 1.1),
        Figure("downtime_switch", "  the switch", switch_seconds, "s"),
        Figure("downtime_reboot", "  a plain reboot", reboot_seconds, "s"),
        Figure("downtime_next", "  a switch to the next Kubernetes", next_seconds, "s"),
    ]
    title, target = STEPS["overlay-only"]
    figures += downloads["overlay-only"].figures("server_overlay-only", f"with a cluster, {title}", target)
    figures += downloads["next"].figures("server_next", "with a cluster, the next Kubernetes", None)
    metadata = {name: asdict(download) for name, download in downloads.items()}
    return Measured(figures, MEANING, {"downtime": downtime, "versions": metadata})


def expose_pod(device: DeviceUnderTest) -> int:
    """Forward a port of the host to the pod, and return the port. A reboot keeps the forward; a power-off ends it."""
    node = device.device.node
    node.guest.put(SERVICE.encode(), "/tmp/service.yaml")
    node.kubectl("apply -f /tmp/service.yaml")
    rule = f"hostfwd_add {NETDEV} tcp:127.0.0.1:0-:{PORT}"
    node.machine.qmp("human-monitor-command", command_line=rule)
    return node.machine.port(PORT)


def measure_downtime(device: DeviceUnderTest, answers: Answers, command: str) -> float:
    """Return the seconds without an answer from the pod while the node reboots by `command`."""
    under_test = device.device
    with log.step(command):
        begin = answers.wait(60)
        under_test.machine.console.skip()
        under_test.node.guest.run(f"sudo {command}", check=False, timeout=600)
        under_test.wait_complete(WAIT)
        answers.wait(WAIT)
        under_test.wait_settled(600)
        before, after = answers.gap(begin, time.monotonic())
    return after - before

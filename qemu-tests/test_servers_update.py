"""Three booted servers with embedded etcd form one cluster, are updated one at a time, and survive the loss of one.

The tests share the machines and depend on their order, because each boot under emulation takes minutes. More about
several servers: `test_servers`, with the programs of the image and without machines.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.cable import TOKEN
from support.devices import EXTRA_SPACE, Device, Lab
from support.distributions import UPSTREAM, DistributionUnderTest
from support.hub import Hub, hub_settings
from support.nodes import BOOT, KUBECTL, LOGS_FOLDER, USER, Node, make_seed

from osbuild.qemu.config import MachineConfig
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.shared.errors import Error

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # 25 minutes: six boots, one after the other
ADDRESSES = {"server-1": "192.0.2.11", "server-2": "192.0.2.12", "server-3": "192.0.2.13"}
MEMORY = 2 * 2**30  # bytes
UPDATE = "overlay-only"
"""the version in `versions.py`: a bundle of few new blocks, because all three servers download it"""
MEMBERS = "edge-kubernetes etcd /run/edge-osbuild/kubernetes/etcd.json members"
POD = """
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  containers: [{name: web, image: "localhost/edge-demo:1", imagePullPolicy: Never}]
"""


@dataclass
class ThreeServers:
    devices: Mapping[str, Device]
    writes: list[tuple[float, str]] = field(default_factory=list)
    """when which server has written an object, with a number that is its place in this list"""

    def ready_nodes(self, through: str) -> set[str]:
        """Return the names of the Ready nodes, as one server answers."""
        items = json.loads(self.devices[through].node.kubectl("get nodes -o json"))["items"]
        return {
            item["metadata"]["name"]
            for item in items
            if any(each["type"] == "Ready" and each["status"] == "True" for each in item["status"]["conditions"])
        }

    def write(self, name: str) -> None:
        """Let one server write an object, if it answers. A write needs a majority of etcd's members."""
        guest = self.devices[name].node.guest
        command = f"sudo {KUBECTL} create configmap write-{len(self.writes)} --request-timeout=20s"
        try:
            result = guest.run(command, check=False, timeout=60)
        except Error:  # it is rebooting
            guest.disconnect()
            return
        if result.status == 0:
            self.writes.append((time.time(), name))

    def written(self, through: str) -> set[str]:
        """Return the names of the written objects, as one server answers."""
        names = self.devices[through].node.kubectl("get configmaps -o name").split()
        return {name.partition("/")[2] for name in names if "/write-" in name}


@pytest.fixture(scope="module")
def servers(
    distribution: DistributionUnderTest, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreeServers]:
    """The servers, which boot one after the other, so that boots don't share the processors."""
    version = lab.versions.get("n", distribution.flavour, bundle=False)
    profile = str(lab.versions.profile("n", distribution.flavour))
    seeds, board, first = tmp_path_factory.mktemp("seeds"), lab.versions.board, ADDRESSES["server-1"]
    qemu, devices = find_emulator(board.architecture), {}
    with ExitStack() as stack:
        hub = stack.enter_context(Hub(tuple(ADDRESSES.values())))
        for name, address in ADDRESSES.items():
            role = {"server": f"https://{first}:6443"} if address != first else {"config": '{"cluster-init": true}'}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(TOKEN, "a secret that all servers know")
                settings = hub_settings(address, **role)
                seed = make_seed(profile, name, lab.key, seeds / f"{name}.iso", settings=settings)
            config = MachineConfig(
                board=board, image=version.image, disk_size=version.image.stat().st_size + EXTRA_SPACE,
                memory=MEMORY, media=(seed,), extra=hub.arguments(address),
            )  # fmt: skip
            log: Path = LOGS_FOLDER / f"servers-update-{name}-{distribution.name}-{board.name}.log"
            machine = stack.enter_context(Machine(config, log=log, emulator=qemu, accelerator=lab.accelerator))
            device = Device(Node(machine, machine.guest(USER, lab.key)), version, lab.versions, lab.site)
            device.wait_complete()
            device.node.wait_good(180)
            devices[name] = device
        yield ThreeServers(devices)


def test_three_booted_servers_form_one_cluster(servers: ThreeServers, distribution: DistributionUnderTest) -> None:
    for name, device in servers.devices.items():
        assert servers.ready_nodes(name) == set(ADDRESSES), name
        members = device.node.kubectl("get nodes -l node-role.kubernetes.io/etcd -o name").split()
        assert len(members) == 3, members
        if distribution is UPSTREAM:
            members = json.loads(device.node.run(MEMBERS))
            assert sorted(member["node"] for member in members) == sorted(ADDRESSES)
            assert all(member["healthy"] and not member["learner"] for member in members), members


def test_an_update_of_all_servers_reboots_one_at_a_time(servers: ThreeServers) -> None:
    for device in servers.devices.values():
        device.machine.console.skip()
        url = device.publish(UPDATE)
        device.start_install(url)
    begin = time.time()
    while waiting := [name for name, device in servers.devices.items() if not runs_update(device)]:
        assert time.time() < begin + 4 * BOOT, f"not updated: {waiting}\n{progress(servers)}"
        for name in servers.devices:
            servers.write(name)
    for device in servers.devices.values():
        device.wait_complete()
        standing = device.wait_settled(300)
        assert (standing.slot, standing.version, standing.event) == ("b", "1.0.1", "committed"), standing
        assert standing.slots == {"a": "good", "b": "good"}, standing
    # Each server is away between its switch and its commit.
    absences = sorted((*read_absence(device), name) for name, device in servers.devices.items())
    for (_, end, name), (next_begin, _, next_name) in itertools.pairwise(absences):
        assert end <= next_begin, f"{next_name} did not wait for {name}: {absences}"
    for begin, end, name in absences:
        others = {other for moment, other in servers.writes if begin < moment < end and other != name}
        assert others, f"nothing was written while {name} was away: {absences}, {servers.writes}"
    # The second and the third said what they were waiting for.
    messages = [str(device.node.run("cat /var/lib/begun.log")) for device in servers.devices.values()]
    assert sum("is being updated" in text for text in messages) == 2, messages
    for name, device in servers.devices.items():
        device.node.wait_until("test ! -e /var/lib/kubernetes/cordoned", 180)
        device.node.kubectl("wait --for=condition=Ready node --all --timeout=120s", timeout=150)
        assert len(servers.written(name)) == len(servers.writes), "what was written is there"
    nodes = json.loads(next(iter(servers.devices.values())).node.kubectl("get nodes -o json"))["items"]
    assert not [node["metadata"]["name"] for node in nodes if node["spec"].get("unschedulable")]


def test_when_a_machine_loses_power_the_others_answer_and_start_pods(servers: ThreeServers) -> None:
    servers.devices["server-1"].cut_power()
    node = servers.devices["server-2"].node
    taints = f"{KUBECTL} get node server-1 --request-timeout=20s -o jsonpath={{.spec.taints[*].key}}"
    node.wait_until(f"{taints} | grep -q node.kubernetes.io/unreachable", 240)
    node.guest.put(POD.encode(), "/tmp/late.yaml")
    node.kubectl("apply -f /tmp/late.yaml")
    node.kubectl("wait --for=condition=Ready pod/late --timeout=300s", timeout=330)
    assert servers.ready_nodes("server-3") == {"server-2", "server-3"}


def runs_update(device: Device) -> bool:
    """Whether the console has reported a healthy boot of the updated slot."""
    return " 1.0.1 slot b " in device.machine.console.text


def read_absence(device: Device) -> tuple[float, float]:
    """Return when a server was switched to the update, and when it had rejoined, and assert that it rebooted once."""
    rows: list[dict[str, Any]] = json.loads(device.node.run("edge-agent update history --json"))
    times = {row["event"]: datetime.fromisoformat(row["time"]).timestamp() for row in rows}
    begin, end = times["switched"], times["committed"]
    moments = [event["timestamp"]["seconds"] for event in device.machine.events if event["event"] == "RESET"]
    assert [moment for moment in moments if begin <= moment <= end], f"no reset from {begin} to {end}: {moments}"
    return begin, end


def progress(servers: ThreeServers) -> str:
    """Return what the installations have reported."""
    texts = []
    for name, device in servers.devices.items():
        with suppress(Error):
            texts.append(f"{name}: {device.node.run('tail -n 5 /var/lib/begun.log')}")
    return "\n".join(texts)

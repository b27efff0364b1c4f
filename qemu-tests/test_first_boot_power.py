"""Power cuts during the first boot of a cluster: keys, certificates, datastore, import of container images."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.distributions import DistributionUnderTest
from support.ledger import Ledger
from support.nodes import BOOT, CONNECT, DEPLOYMENT, LOGS_FOLDER, USER, Node, make_seed

from osbuild.config.board import Board
from osbuild.host import log
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.emulator import Emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair

pytestmark = pytest.mark.slow
Factory = Callable[[], AbstractContextManager[Node]]


@pytest.fixture(scope="module")
def new_node(
    board: Board, distribution: DistributionUnderTest, image: Callable[[str | Path], Path],
    cluster_profile: Callable[[str, Board], Path], qemu: Emulator, accelerator: Accelerator, key: KeyPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> Factory:  # fmt: skip
    """Powers on a machine whose disk has never been booted."""
    profile = cluster_profile("edge-server", board)
    seed = make_seed(profile, "site-1", key, tmp_path_factory.mktemp("seed") / "seed.iso")
    disk = image(profile) / "disk.img"
    config = MachineConfig(
        board=board, image=disk, memory=3 * 2**30, media=(seed,), network=MachineNetwork(restrict=True)
    )
    path = LOGS_FOLDER / f"first-boot-{distribution.name}-{board.name}.log"

    @contextmanager
    def power_on() -> Iterator[Node]:
        with Machine(config, log=path, emulator=qemu, accelerator=accelerator) as machine:
            yield Node(machine, machine.guest(USER, key))

    return power_on


def assert_serves(node: Node) -> None:
    """Assert that the boot completes, and that a pod of a baked-in container image becomes available."""
    node.wait_complete(2 * BOOT)
    node.guest.wait_ready(CONNECT)
    node.guest.put(DEPLOYMENT.encode(), "/tmp/demo.yaml")
    node.kubectl("apply -f /tmp/demo.yaml")
    node.wait_rolled_out("web")


def test_a_power_cut_at_any_moment_of_a_first_boot_leaves_a_working_node(
    new_node: Factory, distribution: DistributionUnderTest, request: pytest.FixtureRequest, ledger: Ledger
) -> None:
    count, seed = max(2, int(request.config.getoption("--cuts")) // 2), int(time.time())
    chance = random.Random(seed)
    with ledger.entry("power", f"first-boot-{distribution.name}") as entry:
        figures = entry.figures
        figures |= {"cuts": 0, "survived": 0, "seed": seed}
        begin = time.monotonic()
        with new_node() as node:
            assert_serves(node)
        total = time.monotonic() - begin
        for number in range(count):
            moment = total * (number + chance.random()) / count
            with new_node() as node:
                time.sleep(moment)
                node.machine.power_cut()
                figures["cuts"] += 1
                node.machine.boot_again()
                assert_serves(node)
                figures["survived"] += 1
                log.note(f"cut {number} after {moment:.1f} of {total:.1f} s: well")

"""A chart of the image on a node that has never had a network: a HelmChart object among the manifests installs it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.distributions import DistributionUnderTest, missing_addons, profile_with_addons
from support.helm_jobs import pack_chart
from support.nodes import BOOT, CONNECT, LOGS_FOLDER, USER, Node, make_seed

from osbuild.config.board import Board
from osbuild.host.output import write_output
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.emulator import Emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair

pytestmark = pytest.mark.slow  # 5 minutes: an image and a boot
TEMPLATE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: shop, image: "localhost/edge-demo:1", imagePullPolicy: Never}]}
"""
HELM_CHART = """
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {name: shop, namespace: kube-system}
spec:
  chart: https://%{KUBERNETES_API}%/static/charts/shop-1.0.0.tgz
  targetNamespace: shop
  createNamespace: true
  valuesContent: "replicas: 1"
"""
SHOP = "kubectl -n shop get deployment shop -o jsonpath={.status.readyReplicas}"


@pytest.fixture(scope="module")
def node(
    board: Board, distribution: DistributionUnderTest, image: Callable[[str | Path], Path], qemu: Emulator,
    accelerator: Accelerator, key: KeyPair, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:  # fmt: skip
    """A server with a chart in its image, after its first boot without a network card."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    folder = Path("build/test-profiles/helm").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    base = profile_with_addons(distribution, board.architecture, folder)
    profile = folder / f"helm-{distribution.name}.yaml"
    lines = [f"name: {profile.stem}", f"extends: {base}", "kubernetes:", "  helm: true", "  charts: [shop-1.0.0.tgz]",
             "  manifests: [shop.yaml]"]  # fmt: skip
    write_output(folder / "shop-1.0.0.tgz", pack_chart(template=TEMPLATE))
    write_output(folder / "shop.yaml", HELM_CHART.encode())
    write_output(profile, ("\n".join(lines) + "\n").encode())
    seed = make_seed(profile, "site-1", key, tmp_path_factory.mktemp("seed") / "seed.iso")
    disk = image(profile) / "disk.img"
    config = MachineConfig(board=board, image=disk, memory=3 * 2**30, media=(seed,), network=None)
    log = LOGS_FOLDER / f"helm-{distribution.name}-{board.name}.log"
    with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as machine:
        machine.console.wait_for(r"edge-osbuild: boot complete: helm\S* \S+ slot a ", BOOT)
        machine.plug_network(MachineNetwork(restrict=True))
        guest = machine.guest(USER, key)
        guest.wait_ready(CONNECT)
        yield Node(machine, guest)


def test_a_helm_chart_object_installs_a_chart_of_the_image(node: Node) -> None:
    node.wait_until(f"test $({SHOP}) = 1", timeout=300)
    assert "deployed" in node.kubectl("-n shop get secrets -l owner=helm,name=shop --show-labels")


def test_a_changed_object_upgrades_the_release(node: Node) -> None:
    patch = '{"spec": {"valuesContent": "replicas: 2"}}'
    node.kubectl(f"-n kube-system patch helmchart shop --type=merge -p '{patch}'")
    node.wait_until(f"test $({SHOP}) = 2", timeout=300)


def test_a_deleted_object_uninstalls_the_release(node: Node) -> None:
    node.kubectl("-n kube-system delete helmchart shop --timeout=300s", timeout=320)
    node.wait_until("! kubectl -n shop get deployment shop", timeout=60)

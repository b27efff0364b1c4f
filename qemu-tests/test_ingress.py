"""Load balancer and ingress of a cluster, from outside of its node, which has no other network.

The tests depend on their order.
"""

import http.client
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import distributions
from support.control_plane import wait_for
from support.distributions import DistributionUnderTest, missing_addons
from support.nodes import BOOT, CONNECT, DEPLOYMENT, LARGER_DISK, LOGS_FOLDER, USER, Node, make_seed

from osbuild.config.board import Board
from osbuild.host import paths
from osbuild.host.output import write_output
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import Forward, MachineConfig, MachineNetwork
from osbuild.qemu.emulator import Emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # 6 minutes: an image and two boots
PORT = 8088
PORTS = (80, 443, PORT)
ADDRESS = "10.0.2.15"  # of the node in QEMU's network; clients have 10.0.2.2
PROFILE = """\
name: edge-server-ingress
extends: {base}
kubernetes:
  load_balancer: true
  ingress: true
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: {kind}, selector: {{app: web}}, ports: [{{port: {port}, targetPort: 8080}}]}}
---
"""
INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: shop.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: inside, port: {number: 80}}}}]}
---
"""


@pytest.fixture(scope="module")
def node(
    distribution: DistributionUnderTest, image: Callable[[str | Path], Path], board: Board, qemu: Emulator,
    accelerator: Accelerator, key: KeyPair, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:  # fmt: skip
    """A server node with both keys. Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    folder = paths.PROJECT / "build/test-profiles"
    base = distributions.profile_with_addons(distribution, board.architecture, folder)
    profile = folder / f"edge-server-ingress-{distribution.name}.yaml"
    write_output(profile, PROFILE.format(base=base).encode())
    seed = make_seed(profile, "site-1", key, tmp_path_factory.mktemp("seed") / "seed.iso")
    disk = image(profile) / "disk.img"
    network = MachineNetwork(forwards=(Forward(22), *map(Forward, PORTS)), restrict=True)
    config = MachineConfig(
        board=board, image=disk, memory=3 * 2**30, disk_size=disk.stat().st_size + LARGER_DISK, media=(seed,),
        network=network,
    )  # fmt: skip
    log = LOGS_FOLDER / f"ingress-{distribution.name}-{board.name}.log"
    with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as machine:
        machine.console.wait_for(r"edge-osbuild: boot complete: edge-server\S* \S+ slot a ", BOOT)
        guest = machine.guest(USER, key)
        guest.wait_ready(CONNECT)
        yield Node(machine, guest)


def fetch(node: Node, port: int, host: str = "shop.example") -> tuple[int, str]:
    """Return status and text of an answer to a client outside of the node."""
    if port == 443:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # Traefik's own certificate
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", node.machine.port(port), timeout=10, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", node.machine.port(port), timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def wait_answer(node: Node, port: int, *, seconds: float = 120) -> None:
    def answers() -> bool:
        try:
            status, text = fetch(node, port)
        except http.client.HTTPException as error:
            raise OSError(repr(error)) from error
        return status == 200 and "web-" in text

    wait_for(answers, f"port {port}", seconds)


def is_refused(node: Node, port: int) -> bool:
    try:
        fetch(node, port)
    except (http.client.HTTPException, OSError):
        return True
    return False


def test_a_service_of_type_load_balancer_answers_at_the_address_of_the_node(node: Node) -> None:
    services = SERVICE.format(name="outside", kind="LoadBalancer", port=PORT)
    node.guest.put((services + DEPLOYMENT).encode(), "/tmp/web.yaml")
    node.kubectl("apply -f /tmp/web.yaml")
    node.wait_rolled_out("web")
    status = "get service outside -o jsonpath={.status.loadBalancer.ingress[*].ip}"
    node.wait_until(f"test $(kubectl {status}) = {ADDRESS}", timeout=120)
    wait_answer(node, PORT)
    own = f"python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://{ADDRESS}:{PORT}\").read())'"
    assert "web-" in node.run(own), "from the node itself"


def test_clients_outside_of_the_source_ranges_are_refused(node: Node) -> None:
    def patch(ranges: str) -> None:
        patch = f'{{"spec":{{"loadBalancerSourceRanges":{ranges}}}}}'
        node.kubectl(f"patch service outside --patch '{patch}'")

    patch('["192.0.2.0/24"]')
    wait_for(lambda: is_refused(node, PORT), "still answers", 60)
    patch('["10.0.2.2/32"]')
    wait_answer(node, PORT)


def test_a_service_that_is_deleted_does_not_answer(node: Node) -> None:
    node.kubectl("delete service outside")
    wait_for(lambda: is_refused(node, PORT), "still answers", 60)


def test_an_ingress_routes_by_host_name(node: Node) -> None:
    node.kubectl("-n kube-system rollout status deployment/traefik --timeout=300s", timeout=320)
    services = SERVICE.format(name="inside", kind="ClusterIP", port=80)
    node.guest.put((services + INGRESS).encode(), "/tmp/ingress.yaml")
    node.kubectl("apply -f /tmp/ingress.yaml")
    wait_answer(node, 80)
    assert fetch(node, 80, "other.example")[0] == 404
    wait_answer(node, 443)
    assert node.kubectl("get ingress web -o jsonpath={.spec.ingressClassName}") == "traefik"
    status = "get ingress web -o jsonpath={.status.loadBalancer.ingress[*].ip}"
    node.wait_until(f"test $(kubectl {status}) = {ADDRESS}", timeout=60)


def test_the_ingress_answers_again_after_a_power_cut(node: Node) -> None:
    node.power_cycle()
    wait_answer(node, 80, seconds=300)

"""A node with a real K3s: pods run after a power cut in the middle of its first start, and after another one.

The release is downloaded from a mirror (EDGE_OSBUILD_K3S_MIRROR), a folder (EDGE_OSBUILD_FOLDER) or the release page;
if it is not available, the tests are skipped. It is the last one in EDGE_TEST_K3S, or the newest pinned one.
"""

from collections.abc import Iterator

import pytest
from support.distributions import K3S
from support.nodes import BOOT, CONNECT, LOGS_FOLDER, USER, Node, make_seed

from osbuild.config.board import Board
from osbuild.config.load import LoadedProfile, load_profile
from osbuild.config.profile import KubernetesSettings
from osbuild.host import paths
from osbuild.host.cache import Cache
from osbuild.inputs.context import BuildContext
from osbuild.inputs.download import Unavailable
from osbuild.keys.development import signing_keys
from osbuild.kubernetes import k3s_release
from osbuild.pipeline.build import build_image
from osbuild.qemu.acceleration import Accelerator
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.emulator import Emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.ssh import KeyPair

pytestmark = pytest.mark.slow  # 6 minutes: an image and three boots

# K3s' own components need images from a registry.
PROFILE = """\
name: k3s-server
version: 1.0.0
extends: edge-server
kubernetes:
  version: {version}
  if_unavailable: null
  disable: [coredns, servicelb, traefik, local-storage, metrics-server]
"""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
IP = "kubectl get pod web -o jsonpath={.status.podIP}"


@pytest.fixture(scope="module")
def loaded(board: Board) -> LoadedProfile:
    """The profile of a server with K3s. Skips if the release is not available."""
    settings = KubernetesSettings(version=K3S.releases[-1])
    try:
        k3s_release.download_release(k3s_release.find_release(settings, board.architecture), Cache())
    except Unavailable as error:
        pytest.skip(f"no K3s release here: {' '.join(error.message.split())}")
    path = paths.PROJECT / "build/profiles/k3s-server.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PROFILE.format(version=k3s_release.requested_version(settings))
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return load_profile(path)


@pytest.fixture(scope="module")
def node(
    board: Board, loaded: LoadedProfile, qemu: Emulator, accelerator: Accelerator, key: KeyPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:  # fmt: skip
    """A node whose power was cut while K3s started for the first time, and which was booted again."""
    build = build_image(loaded, board, paths.PROJECT / "build", BuildContext(Cache()), keys=signing_keys())
    disk = build.folder / "disk.img"
    seed = make_seed("edge-server", "site-1", key, tmp_path_factory.mktemp("seed") / "seed.iso")
    config = MachineConfig(
        board=board, image=disk, memory=3 * 2**30, disk_size=disk.stat().st_size + 2**31, media=(seed,),
        network=MachineNetwork(restrict=True),
    )  # fmt: skip
    log = LOGS_FOLDER / f"k3s-{board.name}.log"
    with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as machine:
        booted = Node(machine, machine.guest(USER, key))
        booted.guest.wait_ready(BOOT)
        booted.wait_until("test -s /var/lib/kubernetes/server/db/state.db", BOOT)
        machine.power_cut()
        machine.boot_again()
        booted.wait_complete()
        booted.guest.wait_ready(CONNECT)
        yield booted


def assert_answers(node: Node) -> None:
    """Assert that the pod runs, has an address and answers there."""
    node.run("kubectl wait --for=condition=Ready pod/web --timeout=300s", timeout=320)
    node.wait_until(f"python3 -c '{GET}' http://$({IP}):8080/ | grep -q web", 60)


def test_pods_run_after_a_power_cut_during_the_first_start(node: Node) -> None:
    node.wait_until("kubectl get serviceaccount default", 120)  # made by a controller, after the node is Ready
    node.run("kubectl run web --image=localhost/edge-demo:1 --image-pull-policy=Never")
    assert_answers(node)
    assert "web" in node.run("crictl ps"), "crictl is configured"


def test_nothing_is_unpacked_on_the_device(node: Node) -> None:
    assert node.run("find /var/lib -size +20M -name 'k3s*' -type f").strip() == ""
    assert node.run("readlink -f /usr/bin/kubectl").strip() == "/usr/lib/k3s/bin/k3s"
    assert node.run("ls /var/lib/kubernetes").split().count("data") == 0


def test_every_command_of_k3s_finds_the_configuration(node: Node) -> None:
    assert "site-1" in node.run("kubectl get nodes -o name")
    assert "site-1" in node.run("k3s kubectl get nodes -o name")
    assert "TOKEN" in node.run("k3s token list")


def test_a_node_keeps_its_password_after_a_power_cut(node: Node) -> None:
    password = node.run("cat /etc/rancher/node/password").strip()
    assert len(password) == 32
    node.run("sync")  # K3s' SQLite may be built without fsync
    node.power_cycle()
    assert node.run("cat /etc/rancher/node/password").strip() == password
    assert_answers(node)
    assert node.run("journalctl -b -u k3s-server | grep -c 'password rejected'; true").strip() == "0"


def test_a_cluster_made_with_a_clock_ahead_recovers_when_the_clock_is_set_back(node: Node) -> None:
    """K3s itself never recovers, because it ignores the begin of its certificates' validity. Last in this module."""
    leaf, authority = (f"/var/lib/kubernetes/server/tls/{name}.crt" for name in ("serving-kube-apiserver", "server-ca"))
    check = f"openssl verify -CAfile {authority} {leaf}"
    node.run("systemctl stop kubernetes.target k3s-server.service && rm -r /var/lib/kubernetes/server")
    # The folder of the network's configuration is kept, because containerd watches it.
    node.run("find /var/lib/kubernetes/agent -maxdepth 1 -type f -delete")
    node.run("date -s '+400 days' && systemctl start --no-block kubernetes.target", timeout=300)
    node.wait_until("kubectl get nodes | grep -qw Ready", 400)
    node.run("kubectl create configmap kept --from-literal=a=b")
    before = node.run(f"openssl x509 -noout -pubkey -subject -in {authority}")
    node.run("date -s '-400 days'")
    node.run_failing(check)
    node.wait_until(check, 300)
    node.wait_until("kubectl get --raw /readyz", 300)
    assert node.run(f"openssl x509 -noout -pubkey -subject -in {authority}") == before, "the same authority"
    assert node.run("kubectl get configmap kept -o jsonpath={.data.a}") == "b"
    node.wait_until("kubectl get serviceaccount default", 120)
    node.run("kubectl run web --image=localhost/edge-demo:1 --image-pull-policy=Never")
    assert_answers(node)
    node.power_cycle()
    assert_answers(node)

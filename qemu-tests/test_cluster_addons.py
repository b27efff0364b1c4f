"""What the shipped `edge-server` brings besides Kubernetes, without a network: DNS, metrics, storage, policies.

The tests go on with the machine of `test_cluster` and depend on their order.
"""

import json

import pytest
from support.cable import CARD, SERVER, TOKEN, seed_settings
from support.distributions import DistributionUnderTest, missing_addons
from support.nodes import Node, ServerNode
from support.pods import FETCH, in_pod, process_of

from osbuild.config.board import Board

pytestmark = pytest.mark.alone
WEB = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  strategy: {type: Recreate}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: localhost/edge-demo:1
        imagePullPolicy: Never
        ports: [{containerPort: 8080}]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: client, image: "localhost/edge-demo:1", imagePullPolicy: Never}]}
"""
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
"""
READ_NETWORKS = "cat $(ls /etc/cni/net.d/*.conflist /var/lib/kubernetes/agent/etc/cni/net.d/*.conflist 2> /dev/null)"
SYSTEM = ("coredns", "local-path-provisioner", "metrics-server")
RESOLVE = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"


@pytest.fixture
def node(cluster_node: ServerNode, board: Board, distribution: DistributionUnderTest) -> ServerNode:
    """Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    return cluster_node


def test_the_add_ons_run(node: Node) -> None:
    for name in SYSTEM:
        node.kubectl(f"-n kube-system rollout status deployment/{name} --timeout=300s", timeout=320)
    assert "local-path (default)" in node.kubectl("get storageclass")


def test_a_pod_resolves_a_service_and_reaches_it_by_name(node: Node) -> None:
    node.kubectl("delete deployment,service web --ignore-not-found")  # of `test_cluster`
    node.kubectl("wait pod -l app=web --for=delete --timeout=120s", timeout=140)
    node.guest.put(WEB.encode(), "/tmp/web.yaml")
    node.kubectl("apply -f /tmp/web.yaml")
    node.wait_rolled_out("web")
    node.kubectl("wait pod/client --for=condition=Ready --timeout=120s", timeout=140)
    address = node.kubectl("get service web -o jsonpath={.spec.clusterIP}").strip()
    for name in ("web", "web.default.svc.cluster.local"):
        assert in_pod(node, "app=client", f"python3 -c '{RESOLVE}' {name}") == address
    assert "web-" in in_pod(node, "app=client", f"python3 -c '{FETCH}' http://web/")


def test_pods_follow_the_name_servers_and_search_domains_of_their_node(node: Node) -> None:
    """CoreDNS, whose node had no name server at its first boot, asks systemd-resolved of the node."""
    pid = process_of(node, "k8s-app=kube-dns -n kube-system")
    assert node.run(f"cat /proc/{pid}/root/etc/resolv.conf").split()[:2] == ["nameserver", "203.0.113.254"]
    pods_file = "/run/edge-osbuild/kubernetes/resolv.conf"
    node.run("resolvectl domain edge0 site.example")
    node.wait_until(f"grep -qx 'search site.example' {pods_file}", timeout=60)
    node.run("resolvectl revert edge0")
    node.wait_until(f"! grep -q site.example {pods_file} && grep -q ^nameserver {pods_file}", timeout=60)


def test_the_metrics_of_node_and_pods_are_shown(node: Node) -> None:
    node.wait_until("kubectl top nodes 2>/dev/null | grep -q site-1", timeout=180)
    node.wait_until("kubectl top pods -A 2>/dev/null | grep -q coredns", timeout=120)


def test_a_network_policy_blocks_traffic_until_it_is_removed(node: Node) -> None:
    fetch = f"python3 -c '{FETCH}' http://web/"
    node.guest.put(DENY.encode(), "/tmp/deny.yaml")
    node.kubectl("apply -f /tmp/deny.yaml")
    in_pod(node, "app=client", f"! {fetch}")
    node.kubectl("label pod client --overwrite app=friend")
    assert "web-" in in_pod(node, "app=friend", fetch), "the policy allows this label"
    node.kubectl("label pod client --overwrite app=client")
    in_pod(node, "app=client", f"! {fetch}")
    node.kubectl("delete networkpolicy web")
    assert "web-" in in_pod(node, "app=client", fetch)


def test_a_volume_survives_a_power_cut(node: ServerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next boot has a new seed: the node gets an address for agent nodes, and a token."""
    volume = node.kubectl("get pv -o jsonpath='{.items[0].spec.hostPath.path}{.items[0].spec.local.path}'").strip()
    assert volume.startswith("/var/lib/kubernetes/storage/")
    monkeypatch.setenv(TOKEN, "a secret that both know")
    node.write_seed(*seed_settings(SERVER))
    node.machine.qmp("set_link", name=CARD, up=True)
    node.run("edge-agent seed apply $(blkid --label CIDATA)")
    node.run(f"echo kept > {volume}/kept; sync")
    networks = [json.loads(node.run(READ_NETWORKS))]
    node.power_cycle()
    networks.append(json.loads(node.run(READ_NETWORKS)))
    assert networks[0] == networks[1], "what was written by the network is what the next boot begins with"
    addresses = json.loads(node.kubectl("get node site-1 -o json"))["status"]["addresses"]
    assert {"type": "InternalIP", "address": SERVER} in addresses
    node.wait_rolled_out("web")
    assert node.run(f"cat /proc/{process_of(node, 'app=web')}/root/data/kept").strip() == "kept"
    for name in SYSTEM:
        node.kubectl(f"-n kube-system rollout status deployment/{name} --timeout=300s", timeout=320)


def test_a_deleted_claim_removes_the_folder(node: Node) -> None:
    node.kubectl("delete deployment web --wait")
    node.kubectl("delete pvc data --wait", timeout=180)
    node.wait_until('test -z "$(ls /var/lib/kubernetes/storage)"', timeout=120)

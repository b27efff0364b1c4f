"""A dual-stack cluster of two machines over WireGuard, in which each node is behind an address translation.

Neither node knows the address at which the other one sees it: the agent node has the server's external address only,
and the server sees the agent node at an address and port that are not its own.
"""

import json
from pathlib import Path

import pytest
from test_join import AGENT, POD, SERVER, Network, TwoNodes, cluster, import_demo

from osbuild.config.board import Board

__all__ = ["cluster"]
pytestmark = pytest.mark.slow  # 4 to 6 minutes: two boots
SERVER6, AGENT6 = "fd00:1::1", "fd00:1::2"
EXTERNAL, TRANSLATED = "198.51.100.1", "192.0.2.77"
# On the agent node, in place of two routers: what it sends to the external address of the server reaches the server,
# and its packets have another source address and port.
TRANSLATION = f"""
table ip routers {{
  chain output {{ type nat hook output priority -100; ip daddr {EXTERNAL} dnat to {SERVER}; }}
  chain received {{ type filter hook input priority 0; ip daddr {AGENT} udp dport 51820 drop; }}
  chain sent {{ type nat hook postrouting priority 90; udp dport 51820 snat to {TRANSLATED}:40000-40100; }}
}}
"""


@pytest.fixture(scope="module")
def nodes_network() -> Network:
    return Network(
        addresses={SERVER: [f"{SERVER6}/64"], AGENT: [f"{AGENT6}/64"]},
        config={
            "cluster-cidr": "10.42.0.0/16,fd00:42::/56",
            "service-cidr": "10.43.0.0/16,fd00:43::/112",
            "flannel-backend": "wireguard-native",
            "flannel-external-ip": True,
        },
        own={SERVER: {"node-external-ip": EXTERNAL}},
    )


def test_pods_of_two_nodes_behind_nat_reach_each_other_over_wireguard(
    cluster: TwoNodes, board: Board, tmp_path: Path
) -> None:
    server, agent = cluster.server, cluster.agent
    node = json.loads(server.kubectl("get node site-1 -o json"))
    assert node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"] == EXTERNAL
    agent.guest.run("sudo nft -f -", input=TRANSLATION)
    agent.run(f"ip address add {TRANSLATED}/24 dev $(ip -oneline address show to {AGENT} | awk '{{ print $2 }}')")
    # The kernel forgets connections without a translation half a minute after their last packet.
    agent.run("systemctl stop kubelet; ip link delete flannel-wg; ip link delete flannel-wg-v6; sleep 40", timeout=100)
    agent.run("systemctl start kubelet", timeout=300)
    agent.wait_until("ip -details link show flannel-wg | grep -q wireguard", timeout=120)
    import_demo(cluster, board, tmp_path)
    server.guest.run("cat > /tmp/pod.yaml", input=POD)
    server.kubectl("apply -f /tmp/pod.yaml")
    server.kubectl("wait --for=condition=Ready pod/web --timeout=300s", timeout=330)
    addresses = [item["ip"] for item in json.loads(server.kubectl("get pod web -o json"))["status"]["podIPs"]]
    assert len(addresses) == 2 and addresses[0].startswith("10.42.") and addresses[1].startswith("fd00:42:")
    for address in addresses:
        host = f"[{address}]" if ":" in address else address
        get = f"import urllib.request; print(urllib.request.urlopen('http://{host}:8080/', timeout=10).read().decode())"
        server.wait_until(f'python3 -c "{get}" | grep -q web', timeout=120)

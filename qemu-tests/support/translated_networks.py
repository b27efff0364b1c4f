"""Two networks behind routers that translate addresses: QEMU's user networking, qemu(1).

The server's router forwards the ports of its API server and of WireGuard, the agent's router forwards none. Between
them is the loopback interface of this host. Each machine sees its router where the other one is: the agent reaches the
server at `PUBLIC`, and the server sees the agent at its own router, with a port that the routers chose.
"""

from support.cable import CARD, FAR_AGENT, SERVER, network_card

PUBLIC = "198.51.100.1"
"""the server's address for everybody outside of its network"""
PORTS = {"tcp": 6443, "udp": 51820}
"""of the API server and of WireGuard, which nodes expect on exactly these ports"""
NETWORKS = {SERVER: "net=192.0.2.0/24,host=192.0.2.254", FAR_AGENT: f"net=198.51.100.0/24,host={PUBLIC}"}


class TranslatedNetworks:
    """The routers of both networks."""

    def arguments(self, address: str) -> tuple[str, ...]:
        """Return QEMU's arguments for the card and the router of the machine that will have `address`."""
        rules = [f"hostfwd={kind}:127.0.0.1:{port}-{SERVER}:{port}" for kind, port in PORTS.items()]
        router = ",".join([f"user,id={CARD},ipv6=off", NETWORKS[address], *(rules if address == SERVER else ())])
        return ("-netdev", router, *network_card(address))

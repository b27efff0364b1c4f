"""The machine's network card: plug, unplug, link, and forwarded ports."""

from osbuild.qemu.command import NETDEV, NIC, netdev_arguments, nic_arguments
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.qmp import CommandRefused
from osbuild.qemu.session import Session
from osbuild.shared.errors import Error


class NetworkCard:
    """The card of the machine `config`. `network` is its network, None while it is unplugged."""

    def __init__(self, session: Session, config: MachineConfig) -> None:
        self._session = session
        self._config = config
        self.network = config.network

    def plug(self, network: MachineNetwork | None = None) -> None:
        """Plug in a card, by default the configured one, or one with default settings. Raises `Error`."""
        network = network or self._config.network or MachineNetwork()
        try:
            self._session.qmp("netdev_add", **netdev_arguments(network))
        except CommandRefused as error:
            hint = self._session.advice(str(error))
            raise Error(f"the network cannot be plugged in: {error}", hint=hint) from error
        try:
            self._session.qmp("device_add", **nic_arguments(network, self._config.board.qemu))
        except Error:
            self._session.qmp("netdev_del", id=NETDEV)
            raise
        self.network = network

    def unplug(self, timeout: float) -> None:
        """Unplug the card. Raises `TimedOut` if the guest does not release it within `timeout` seconds."""
        self._session.qmp("device_del", id=NIC)
        self._session.wait_for_event("DEVICE_DELETED", timeout, matching={"device": NIC})
        self._session.qmp("netdev_del", id=NETDEV)
        self.network = None

    def set_link(self, up: bool) -> None:
        """Connect or disconnect the cable of the card."""
        self._session.qmp("set_link", name=NIC, up=up)

    def port(self, guest: int) -> int:
        """Return the port on 127.0.0.1 that is forwarded to TCP port `guest` of the guest."""
        return parse_forward(self._session.qmp("human-monitor-command", command_line="info usernet"), guest)


def parse_forward(usernet: str, port: int) -> int:
    """Parse HMP `info usernet` for the host's port of the guest's `port`. Raises `Error` if it is not forwarded."""
    for line in usernet.splitlines():
        fields = line.split()
        # TCP[HOST_FORWARD]  fd  host address  host port  guest address  guest port  …
        if fields and fields[0] == "TCP[HOST_FORWARD]" and fields[5] == str(port):
            return int(fields[3])
    raise Error(f"port {port} of the guest is not forwarded", hint="list it in MachineNetwork.forwards")

"""The throughput of a TCP connection between two guests, or between pods on them."""

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from support.nodes import Node

from bench.figure import Figure

MB = 10**6
SECONDS = 6
REPEATS = 3
PORT = 5001
RECEIVE = f"""
import socket, time
with socket.create_server(("", {PORT})) as server:
    server.settimeout(60)
    connection, _ = server.accept()
connection.settimeout(60)
buffer, size, begin = bytearray(1 << 18), 0, time.monotonic()
while count := connection.recv_into(buffer):
    size += count
print(size / (time.monotonic() - begin))
"""
SEND = f"""
import socket, sys, time
data, last = bytes(1 << 18), time.monotonic() + 30
while True:
    try:
        connection = socket.create_connection((sys.argv[1], {PORT}), 5)
        break
    except OSError:
        if time.monotonic() > last:
            raise
        time.sleep(0.2)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    connection.sendall(data)
connection.close()
"""
MEANING = (
    f"Throughput: one TCP connection from the agent node to the server node, {SECONDS} s of zeros, counted by the "
    f"receiver; medians of {REPEATS}, link and pods alternating. The programs are those of the nodes, and for pods run "
    "in the network namespaces of the pods. The link is UDP between two QEMUs on this host, and both guests are "
    "emulated on the same processors, so only the ratios mean something."
)


@dataclass(frozen=True)
class StreamEnd:
    """One end of a connection: programs run on `node`, in the network of the process `pid` if it is not None."""

    node: Node
    address: str
    pid: int | None = None

    def run(self, program: str, *arguments: str) -> str:
        """Run a Python program of the node in this network."""
        enter = "" if self.pid is None else f"nsenter --target {self.pid} --net "
        return self.node.run(f"{enter}python3 {program} {' '.join(arguments)}", timeout=SECONDS + 120)


@dataclass(frozen=True)
class Stream:
    """A TCP connection on which bytes go from the sender to the receiver."""

    sender: StreamEnd
    receiver: StreamEnd

    def measure(self) -> float:
        """Return the throughput in bytes per second."""
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit(self.receiver.run, "/tmp/bench-receive.py")
            self.sender.run("/tmp/bench-send.py", self.receiver.address, str(SECONDS))
            return float(received.result())


def install_programs(nodes: Sequence[Node]) -> None:
    """Copy the programs to the nodes."""
    for node in nodes:
        node.guest.put(RECEIVE.encode(), "/tmp/bench-receive.py")
        node.guest.put(SEND.encode(), "/tmp/bench-send.py")


def compare_throughput(pods: Stream, link: Stream, backend: str) -> tuple[list[Figure], dict[str, object]]:
    """Measure the throughput between pods over a backend of flannel against that of the link."""
    rates: dict[str, list[float]] = {"link": [], "pods": []}
    for _ in range(REPEATS):
        rates["link"].append(link.measure())
        rates["pods"].append(pods.measure())
    median = {name: statistics.median(values) for name, values in rates.items()}
    name = f"throughput_{backend}"
    ratio = median["pods"] / median["link"]
    figures = [
        Figure(name, f"throughput between pods of two nodes over {backend} ÷ plain link, TCG", ratio, "×"),
        Figure(f"{name}_pods", "  between pods", median["pods"] / MB, "MB/s"),
        Figure(f"{name}_link", "  between the nodes, without flannel", median["link"] / MB, "MB/s"),
    ]
    return figures, {name: rates}

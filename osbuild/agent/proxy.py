"""The proxy of this node, which the seed writes as an environment file."""

import os

from osbuild.agent.system import System

FILE = "/etc/edge-osbuild/proxy.env"


def use_node_proxy(system: System) -> None:
    """Have programs of this process reach the network by the node's proxy, unless the environment names one."""
    for line in system.text(FILE).splitlines():
        name, equals, value = line.partition("=")
        if equals and name.lower().endswith("_proxy"):
            os.environ.setdefault(name, value)

"""The proxy settings of this node: an environment file that the seed provides."""

import os

from osbuild.agent.system import System
from osbuild.shared.node_settings import PROXY_FILE

FILE = PROXY_FILE


def use_node_proxy(system: System) -> None:
    """Set the proxy variables of this process and its children, except those that the environment already has."""
    for line in system.text(FILE).splitlines():
        name, equals, value = line.partition("=")
        if equals and name.lower().endswith("_proxy"):
            os.environ.setdefault(name, value)

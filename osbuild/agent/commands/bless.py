"""`edge-agent bless`: marks the running slot as good."""

import argparse

from osbuild.agent.boot.loader import boot_loader
from osbuild.agent.system import System


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def main(options: argparse.Namespace) -> int:
    system = System()
    slot = system.argument("edge.slot")
    if slot is None:
        print("edge-agent: the kernel command line names no slot")
        return 1
    boot_loader(system).bless(system, slot)
    print(f"slot {slot} is good")
    return 0

"""`edge-agent backend`: RAUC's interface to the boot loader (RAUC's manual, "Custom Bootloader Backend Interface").

The boot names of RAUC are the names of the slots.
"""

import argparse
import errno
import re
import sys

from osbuild.agent.boot.loader import boot_loader
from osbuild.agent.system import System

CALLS = ("get-primary", "set-primary", "get-state", "set-state", "get-current")


def answer_call(system: System, call: str, arguments: list[str]) -> list[str]:
    """Run a call and return the lines to print. Raises `ValueError` for an invalid call, `OSError` for a failure."""
    loader = boot_loader(system)
    match call, *arguments:
        case ["get-current"]:
            return [require_slot(system.argument("edge.slot"))]
        case ["get-primary"]:
            return [require_slot(loader.next_slot(system))]
        case ["get-state", slot]:
            usable = {entry.slot for entry in loader.read_entries(system) if entry.state != "bad"}
            return ["good" if slot in usable else "bad"]
        case ["set-primary", slot]:
            loader.switch_to(system, parse_slot(slot))
        case ["set-state", slot, "good"]:
            loader.bless(system, parse_slot(slot))
        case ["set-state", slot, "bad"]:
            loader.reject(system, parse_slot(slot))
        case _:
            raise ValueError(f"unknown call of the boot loader backend: {' '.join([call, *arguments])}")
    return []


def parse_slot(slot: str) -> str:
    """Check the name of a slot. Raises `ValueError`."""
    if not re.fullmatch("[a-z]", slot):
        raise ValueError(f"{slot} is not a slot")
    return slot


def require_slot(slot: str | None) -> str:
    """Return `slot`. Raises `OSError` if it is None."""
    if slot is None:
        raise OSError(errno.ENOENT, "the slot is unknown")
    return slot


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("call", choices=CALLS, help="what to read or change")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="a slot, and its new state")


def main(options: argparse.Namespace) -> int:
    try:
        for line in answer_call(System(), options.call, options.arguments):
            print(line)
    except ValueError as problem:
        print(f"edge-agent: {problem}", file=sys.stderr)
        return 2
    return 0

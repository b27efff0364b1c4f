"""The type of the fixture that makes the machines of a test."""

from typing import Protocol

from osbuild.qemu.config import MachineConfig
from osbuild.qemu.machine import Machine


class MachineFactory(Protocol):
    """Powers on a machine, which is removed when the test ends. Its console log is kept in build/test-logs/."""

    def __call__(self, config: MachineConfig) -> Machine: ...

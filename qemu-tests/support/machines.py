"""What makes the machines of a test."""

from typing import Protocol

from osbuild.qemu.config import MachineConfig
from osbuild.qemu.machine import Machine


class MachineFactory(Protocol):
    """Powers a machine on; it is gone when the test ends. Its console log stays in build/test-logs/."""

    def __call__(self, config: MachineConfig) -> Machine: ...

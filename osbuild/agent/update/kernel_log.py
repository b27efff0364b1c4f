"""Messages of the kernel during an installation, such as I/O errors and failed dm-verity checks."""

import os
from types import TracebackType

from osbuild.agent.system import System

LIMIT = 2000  # lines that are stored


class KernelMessages:
    """New lines of the kernel log (kernel documentation, ABI/testing/dev-kmsg). Empty without the right to read it."""

    def __init__(self, system: System) -> None:
        self.lines: list[str] = []
        self.descriptor: int | None = None
        self.path = system.path("/dev/kmsg")

    def __enter__(self) -> "KernelMessages":
        try:
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self.descriptor, 0, os.SEEK_END)
        except OSError:
            self.__exit__(None, None, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def read_lines(self) -> list[str]:
        """All lines since it was opened."""
        while self.descriptor is not None and len(self.lines) < LIMIT:
            try:
                record = os.read(self.descriptor, 8192).decode(errors="replace")
            except BrokenPipeError:  # lines were overwritten before they were read
                continue
            except OSError:  # no more lines at the moment
                break
            if not record:
                break
            # "priority,number,time,flags;text", then lines of key=value that begin with a space
            self.lines.append(record.partition(";")[2].splitlines()[0] if ";" in record else record.strip())
        return self.lines

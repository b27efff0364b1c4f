"""The running system: where its facts are read from, and how files are written so that a power cut can't tear them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.shared.files import read_file


@dataclass(frozen=True)
class System:
    """`root` is `/` on a device and a folder of files in tests."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """An absolute path of the device, below `root`."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """The text of a file, empty where there is none or it can't be read."""
        try:
            return read_file(self.path(name)).decode(errors="replace")
        except OSError:
            return ""

    def json(self, name: str) -> dict[str, Any]:
        """An object from a JSON file, empty where there is none or it is broken."""
        try:
            found = json.loads(self.text(name))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def image(self) -> dict[str, Any]:
        """What the build wrote about the running image."""
        return self.json("/usr/lib/edge-osbuild/image.json")

    def argument(self, name: str) -> str | None:
        """The value of `name=` on the kernel command line (proc(5)), the last one if there are several."""
        words = [word.partition("=") for word in self.text("/proc/cmdline").split()]
        return next((value for key, equals, value in reversed(words) if key == name and equals), None)

    def uptime(self) -> float:
        """Seconds since the kernel started (proc(5))."""
        return float((self.text("/proc/uptime") or "0").split()[0])

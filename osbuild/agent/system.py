"""The running system: its files, kernel command line and uptime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.shared.files import read_file
from osbuild.shared.image_description import DESCRIPTION_FILE, ImageDescription
from osbuild.shared.json_text import parse_json


@dataclass(frozen=True)
class System:
    """`root` is `/` on a device and a folder of files in tests."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """An absolute path of the device, below `root`."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """The text of a file; empty if the file is missing or cannot be read."""
        try:
            return read_file(self.path(name)).decode(errors="replace")
        except OSError:
            return ""

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty if the file is missing or not a JSON object."""
        try:
            document = parse_json(self.text(name))
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def image(self) -> ImageDescription:
        """The description of the running image; without any value if the file is missing or not valid."""
        try:
            return ImageDescription.parse(self.text(DESCRIPTION_FILE))
        except ValueError:
            return ImageDescription()

    def argument(self, name: str) -> str | None:
        """The value of `name=` on the kernel command line (proc(5)); the last one counts, None if there is none."""
        arguments = [word.partition("=") for word in self.text("/proc/cmdline").split()]
        return next((value for key, equals, value in reversed(arguments) if key == name and equals), None)

    def uptime(self) -> float:
        """Seconds since the kernel started (proc(5))."""
        return float((self.text("/proc/uptime") or "0").split()[0])

"""The minimum version: the lowest version that may be installed. Each commit of a higher version raises it.

It is also written to RAUC's configuration, so that RAUC enforces it for installations without the agent.
"""

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.agent.update import records
from osbuild.shared.files import write_file
from osbuild.shared.image_versions import is_older, version_key

FILE = "floor"
CONFIG = "/usr/lib/rauc/system.conf"
RUNTIME = "/run/rauc/system.conf"  # RAUC prefers this file to the one in /usr/lib


def read_minimum(system: System) -> str | None:
    """The minimum version; None if there is none yet."""
    return state_files.read_text(system, f"{records.FOLDER}/{FILE}", lambda text: version_key(text) is not None) or None


def raise_minimum(system: System, version: str) -> bool:
    """Raise the minimum version, never lower it. Returns whether it has changed. Raises `OSError`."""
    minimum = read_minimum(system)
    return (minimum is None or is_older(minimum, version) is True) and set_minimum(system, version)


def set_minimum(system: System, version: str) -> bool:
    """Set the minimum version, also to a lower one. Returns whether it has changed. Raises `OSError`."""
    if version_key(version) is None or read_minimum(system) == version:
        return False
    write_file(records.state_path(system, FILE), f"{version}\n".encode(), 0o600)
    return True


def write_rauc_config(system: System) -> bool:
    """Write RAUC's configuration for this boot. Returns whether it has changed. Raises `OSError`."""
    minimum, config = read_minimum(system), system.text(CONFIG)
    if minimum is None or not config:
        return False
    lines = [line for line in config.splitlines() if not line.startswith("min-bundle-version=")]
    if "[system]" not in lines:
        return False
    lines.insert(lines.index("[system]") + 1, f"min-bundle-version={minimum}")
    text = "\n".join(lines) + "\n"
    if system.text(RUNTIME) == text:
        return False
    write_file(system.path(RUNTIME), text.encode())
    return True

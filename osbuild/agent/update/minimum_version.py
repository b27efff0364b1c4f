"""The lowest version that may be installed. It rises with each version that has shown that it is good.

RAUC enforces it too, for whoever installs without the agent: its configuration of this boot has it.
"""

from osbuild.agent import state_files
from osbuild.agent.system import System
from osbuild.agent.update import records
from osbuild.shared.files import write_file
from osbuild.shared.image_versions import is_older, version_key

FILE = "floor"
CONFIG = "/usr/lib/rauc/system.conf"
RUNTIME = "/run/rauc/system.conf"  # RAUC looks here before it looks in /usr/lib


def read_minimum(system: System) -> str | None:
    """The lowest version that may be installed, None where none is known yet."""
    return (
        state_files.read_text(system, f"{records.FOLDER}/{FILE}", lambda found: version_key(found) is not None) or None
    )


def raise_minimum(system: System, version: str) -> bool:
    """Never lower than before; True where it has changed. Raises `OSError`."""
    floor = read_minimum(system)
    return (floor is None or is_older(floor, version) is True) and set_minimum(system, version)


def set_minimum(system: System, version: str) -> bool:
    """The same, lower too: for what the signer of a bundle has allowed; True where it has changed. Raises `OSError`."""
    if version_key(version) is None or read_minimum(system) == version:
        return False
    write_file(records.state_path(system, FILE), f"{version}\n".encode(), 0o600)
    return True


def write_rauc_config(system: System) -> bool:
    """Write RAUC's configuration of this boot; True where it has changed. Raises `OSError`."""
    floor, plain = read_minimum(system), system.text(CONFIG)
    if floor is None or not plain:
        return False
    lines = [line for line in plain.splitlines() if not line.startswith("min-bundle-version=")]
    if "[system]" not in lines:
        return False
    lines.insert(lines.index("[system]") + 1, f"min-bundle-version={floor}")
    text = "\n".join(lines) + "\n"
    if system.text(RUNTIME) == text:
        return False
    write_file(system.path(RUNTIME), text.encode())
    return True

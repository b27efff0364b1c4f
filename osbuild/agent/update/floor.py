"""The lowest version that may be installed. It rises with each version that has shown that it is good.

RAUC enforces it too, for whoever installs without the agent: its configuration of this boot has it.
"""

from osbuild.agent import kept
from osbuild.agent.system import System, write
from osbuild.agent.update import state
from osbuild.agent.update.version import key, older

FILE = "floor"
CONFIG = "/usr/lib/rauc/system.conf"
RUNTIME = "/run/rauc/system.conf"  # RAUC looks here before it looks in /usr/lib


def read(system: System) -> str | None:
    """The lowest version that may be installed, None where none is known yet."""
    return kept.text(system, f"{state.FOLDER}/{FILE}", lambda found: key(found) is not None) or None


def rise(system: System, version: str) -> bool:
    """Never lower than before; True where it has changed. Raises `OSError`."""
    floor = read(system)
    return (floor is None or older(floor, version) is True) and put(system, version)


def put(system: System, version: str) -> bool:
    """The same, lower too: for what the signer of a bundle has allowed; True where it has changed. Raises `OSError`."""
    if key(version) is None or read(system) == version:
        return False
    write(state.place(system, FILE), f"{version}\n".encode(), 0o600)
    return True


def enforce(system: System) -> bool:
    """Write RAUC's configuration of this boot; True where it has changed. Raises `OSError`."""
    floor, plain = read(system), system.text(CONFIG)
    if floor is None or not plain:
        return False
    lines = [line for line in plain.splitlines() if not line.startswith("min-bundle-version=")]
    if "[system]" not in lines:
        return False
    lines.insert(lines.index("[system]") + 1, f"min-bundle-version={floor}")
    text = "\n".join(lines) + "\n"
    if system.text(RUNTIME) == text:
        return False
    write(system.path(RUNTIME), text.encode())
    return True

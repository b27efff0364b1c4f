"""`edge-agent seed apply FILE`: replaces the seed of a running node."""

import subprocess
from pathlib import Path

from osbuild.agent.errors import FREE, Problem
from osbuild.agent.seed.accepted import AcceptedSeed, accept_seed
from osbuild.agent.seed.choose import ON_ESP
from osbuild.agent.seed.media import mounted
from osbuild.agent.seed.store import store_seed, supersede
from osbuild.agent.system import System
from osbuild.shared.seed.files import SeedFiles, read_seed
from osbuild.shared.seed.refused import SeedRefused


def replace_seed(system: System, path: Path) -> AcceptedSeed:
    """Check the seed in a folder, image file or device, and store it for the next boot. Raises `Problem`.

    A seed on the ESP is ignored from now on.
    """
    hint = "nothing was changed; use a folder, a seed.iso or a device"
    try:
        accepted = accept_seed(load_seed(system, path), str(path))
    except SeedRefused as problem:
        raise Problem(f"the seed is refused: {problem}", where=str(path), hint=hint) from None
    except subprocess.CalledProcessError as problem:
        output = " ".join(str(problem.stderr or "").split())
        raise Problem(f"the device cannot be mounted: {output}", where=str(path), hint=hint) from None
    except (OSError, subprocess.SubprocessError) as problem:
        raise Problem(f"the seed cannot be read: {problem}", where=str(path), hint=hint) from None
    try:
        if system.path(ON_ESP).is_dir():
            supersede(system, read_seed(system.path(ON_ESP)).digest)
        store_seed(system, accepted.seed)
    except SeedRefused:
        store_seed(system, accepted.seed)
    except OSError as problem:
        raise Problem(f"the seed cannot be stored: {problem.strerror or problem}", where=str(path), hint=FREE) from None
    return accepted


def load_seed(system: System, path: Path) -> SeedFiles:
    """The seed at `path`. Raises `SeedRefused`, `OSError` or `subprocess.SubprocessError`."""
    if path.is_dir():
        return read_seed(path)
    if not path.exists():
        raise FileNotFoundError("the file does not exist")
    with mounted(system, path) as folder:
        return read_seed(folder)

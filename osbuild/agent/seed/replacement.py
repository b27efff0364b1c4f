"""`edge-agent seed apply FILE`: root replaces the seed of a running node."""

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

    A seed on the ESP does not count any more.
    """
    hint = "nothing was changed; give a folder, a seed.iso or a device"
    try:
        accepted = accept_seed(load_seed(system, path), str(path))
    except SeedRefused as problem:
        raise Problem(f"this seed is refused: {problem}", where=str(path), hint=hint) from None
    except subprocess.CalledProcessError as problem:
        said = " ".join(str(problem.stderr or "").split())
        raise Problem(f"it can't be mounted: {said}", where=str(path), hint=hint) from None
    except (OSError, subprocess.SubprocessError) as problem:
        raise Problem(f"it can't be read: {problem}", where=str(path), hint=hint) from None
    try:
        if system.path(ON_ESP).is_dir():
            supersede(system, read_seed(system.path(ON_ESP)).digest)
        store_seed(system, accepted.seed)
    except SeedRefused:
        store_seed(system, accepted.seed)
    except OSError as problem:
        raise Problem(f"it can't be stored: {problem.strerror or problem}", where=str(path), hint=FREE) from None
    return accepted


def load_seed(system: System, path: Path) -> SeedFiles:
    """The seed at `path`. Raises `Refused`, `OSError` or `subprocess.SubprocessError`."""
    if path.is_dir():
        return read_seed(path)
    if not path.exists():
        raise FileNotFoundError("there is no such file")
    with mounted(system, path) as folder:
        return read_seed(folder)

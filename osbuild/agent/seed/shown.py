"""The folders of a boot: what was chosen as it was given, and what cloud-init reads."""

import shutil
from pathlib import Path

from osbuild.agent.seed.accepted import Accepted
from osbuild.agent.seed.files import Seed, read
from osbuild.agent.seed.refused import Refused
from osbuild.agent.system import System

GIVEN = "/run/edge-osbuild/seed"
CLOUD = "/var/lib/cloud"
SHOWN = f"{CLOUD}/seed/nocloud"


def show(system: System, accepted: Accepted) -> None:
    """Put a seed where cloud-init reads it, and beside it as it was given. Raises `OSError`."""
    fill(system.path(SHOWN), accepted.files)
    fill(system.path(GIVEN), accepted.seed.files)


def given(system: System) -> Seed | None:
    """The seed that was chosen at this boot, None if there is none."""
    try:
        return read(system.path(GIVEN))
    except (OSError, Refused):
        return None


def forget(system: System) -> None:
    """Remove what a run of cloud-init that failed has left, so that the next one begins anew."""
    folder = system.path(CLOUD)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def fill(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` hold exactly `files`, readable by root only."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)

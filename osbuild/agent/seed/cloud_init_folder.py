"""The folders of a boot: what was chosen as it was given, and what cloud-init reads."""

import shutil
from pathlib import Path

from osbuild.agent.seed.accepted import AcceptedSeed
from osbuild.agent.system import System
from osbuild.shared.seed.files import SeedFiles, read_seed
from osbuild.shared.seed.refused import SeedRefused

GIVEN = "/run/edge-osbuild/seed"
CLOUD = "/var/lib/cloud"
SHOWN = f"{CLOUD}/seed/nocloud"


def show_seed(system: System, accepted: AcceptedSeed) -> None:
    """Put a seed where cloud-init reads it, and beside it as it was given. Raises `OSError`."""
    fill_folder(system.path(SHOWN), accepted.files)
    fill_folder(system.path(GIVEN), accepted.seed.files)


def given_seed(system: System) -> SeedFiles | None:
    """The seed that was chosen at this boot, None if there is none."""
    try:
        return read_seed(system.path(GIVEN))
    except (OSError, SeedRefused):
        return None


def remove_cloud_init_state(system: System) -> None:
    """Remove what a run of cloud-init that failed has left, so that the next one begins anew."""
    folder = system.path(CLOUD)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def fill_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` hold exactly `files`, readable by root only."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)

"""The folders of a boot with the chosen seed: the original files, and the files for cloud-init."""

import shutil
from pathlib import Path

from osbuild.agent.seed.accepted import AcceptedSeed
from osbuild.agent.system import System
from osbuild.shared.seed.files import SeedFiles, read_seed
from osbuild.shared.seed.refused import SeedRefused

CHOSEN = "/run/edge-osbuild/seed"
CLOUD = "/var/lib/cloud"
CLOUD_INIT_SEED = f"{CLOUD}/seed/nocloud"


def write_for_cloud_init(system: System, accepted: AcceptedSeed) -> None:
    """Write the files for cloud-init, and the original files of the seed. Raises `OSError`."""
    fill_folder(system.path(CLOUD_INIT_SEED), accepted.files)
    fill_folder(system.path(CHOSEN), accepted.seed.files)


def chosen_seed(system: System) -> SeedFiles | None:
    """The seed that was chosen at this boot; None if there is none."""
    try:
        return read_seed(system.path(CHOSEN))
    except (OSError, SeedRefused):
        return None


def remove_cloud_init_state(system: System) -> None:
    """Remove the files of a failed run of cloud-init, so that the next run starts from the beginning."""
    folder = system.path(CLOUD)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def fill_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Replace `folder` by one with exactly `files`, readable by root only. Raises `OSError`."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)

"""The stored seed: what this node was configured from last, on the data partition."""

import shutil

from osbuild.agent.system import System
from osbuild.shared.files import replace_link, write_file
from osbuild.shared.seed.files import SeedFiles, read_seed
from osbuild.shared.seed.refused import SeedRefused

FOLDER = "/var/lib/edge-osbuild/seed"
SUPERSEDED = "superseded"  # a file in FOLDER: the digest of a seed on the ESP that another one has replaced


def stored_seed(system: System) -> SeedFiles | None:
    """The last seed that was applied, None if there is none or it does not match its folder's name, a digest."""
    current = system.path(FOLDER) / "current"
    try:
        seed = read_seed(current)
        return seed if seed.digest == current.readlink().name else None
    except (OSError, SeedRefused):
        return None


def store_seed(system: System, seed: SeedFiles) -> None:
    """Store a seed: a new folder, then one rename of the link to it, so that a power cut leaves the old or the new.

    Raises `OSError`.
    """
    folder = system.path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    current = folder / "current"
    if current.is_symlink() and current.readlink().name == seed.digest and stored_seed(system) == seed:
        return
    target = folder / seed.digest
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(mode=0o700)
    # Without its checksums: the folder's name is one, and an older image may not understand every form of them.
    for name, data in seed.files.items():
        write_file(target / name, data, 0o600)
    replace_link(current, seed.digest)
    for other in folder.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name != seed.digest:
            shutil.rmtree(other)


def superseded_digest(system: System) -> str:
    """The digest of the seed on the ESP that does not count any more, empty if there is none."""
    return system.text(f"{FOLDER}/{SUPERSEDED}").strip()


def supersede(system: System, digest: str) -> None:
    """From now on the stored seed goes before the seed with `digest` on the ESP. Raises `OSError`."""
    if superseded_digest(system) != digest:
        write_file(system.path(f"{FOLDER}/{SUPERSEDED}"), f"{digest}\n".encode(), 0o600)

"""The stored seed: a copy of the seed that was applied last, on the data partition."""

import shutil

from osbuild.agent.system import System
from osbuild.shared.files import replace_link, write_file
from osbuild.shared.seed.files import SeedFiles, read_seed
from osbuild.shared.seed.refused import SeedRefused

FOLDER = "/var/lib/edge-osbuild/seed"
SUPERSEDED = "superseded"  # file in FOLDER with the digest of a seed on the ESP that another seed has replaced


def stored_seed(system: System) -> SeedFiles | None:
    """The stored seed; None if there is none or its digest is not the name of its folder."""
    current = system.path(FOLDER) / "current"
    try:
        seed = read_seed(current)
        return seed if seed.digest == current.readlink().name else None
    except (OSError, SeedRefused):
        return None


def store_seed(system: System, seed: SeedFiles) -> None:
    """Store a seed atomically: write a new folder, then replace the link to it. Raises `OSError`."""
    folder = system.path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    current = folder / "current"
    if current.is_symlink() and current.readlink().name == seed.digest and stored_seed(system) == seed:
        return
    target = folder / seed.digest
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(mode=0o700)
    # Without SHA256SUMS: the name of the folder is a digest, and an older image may not support every form of the file.
    for name, data in seed.files.items():
        write_file(target / name, data, 0o600)
    replace_link(current, seed.digest)
    for other in folder.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name != seed.digest:
            shutil.rmtree(other)


def superseded_digest(system: System) -> str:
    """The digest of the seed on the ESP that is ignored; empty if there is none."""
    return system.text(f"{FOLDER}/{SUPERSEDED}").strip()


def supersede(system: System, digest: str) -> None:
    """Prefer the stored seed to the seed with `digest` on the ESP from now on. Raises `OSError`."""
    if superseded_digest(system) != digest:
        write_file(system.path(f"{FOLDER}/{SUPERSEDED}"), f"{digest}\n".encode(), 0o600)

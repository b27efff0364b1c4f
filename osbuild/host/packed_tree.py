"""A folder of files as one file, for what a wheel does not keep.

pip loses links, empty folders and all of a mode but whether a file is executable, and compiles each Python file.
"""

import io
import os
import tarfile
from pathlib import Path

from osbuild.host.modes import fixed_mode
from osbuild.host.walk import walk_folder

CACHED = "__pycache__"


def pack_tree(folder: Path) -> bytes:
    """A tar (POSIX.1-2001) of what is below `folder`, byte code left out; the same bytes on every host."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for found in walk_folder(folder):
            if CACHED in found.path.parts:
                continue
            member = tarfile.TarInfo(str(found.path))
            member.mode = fixed_mode(found.status.st_mode)
            if found.is_link:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(Path(found.leads_to())), 0o777
                archive.addfile(member)
            elif found.is_folder:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif found.is_file:
                member.size = found.status.st_size
                with found.opened() as file, os.fdopen(os.dup(file), "rb") as data:
                    archive.addfile(member, data)
            else:
                raise OSError(f"{folder / found.path} is not a file, a link or a folder")
    return output.getvalue()


def unpack_tree(archive: Path, target: Path) -> None:
    """Create the folder `target` from what `pack_tree` returned. Modes do not depend on the umask, or on who calls
    this.

    `archive` is trusted: its links may lead anywhere.
    """
    target.mkdir()
    target.chmod(0o755)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = target / member.name
            if member.issym():
                path.symlink_to(member.linkname)
                continue
            if member.isdir():
                path.mkdir()
            elif (file := tar.extractfile(member)) is not None:
                path.write_bytes(file.read())
            path.chmod(member.mode)

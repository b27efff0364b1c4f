"""Packs a folder into one file for a wheel.

pip drops links, empty folders and every mode bit except "executable", and it compiles each Python file.
"""

import io
import os
import tarfile
from pathlib import Path

from osbuild.host.modes import fixed_mode
from osbuild.host.walk import walk_folder

CACHED = "__pycache__"


def pack_tree(folder: Path) -> bytes:
    """Return a tar archive (POSIX.1-2001) of `folder` without byte code. Its bytes are the same on every host."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for item in walk_folder(folder):
            if CACHED in item.path.parts:
                continue
            member = tarfile.TarInfo(str(item.path))
            member.mode = fixed_mode(item.status.st_mode)
            if item.is_link:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(Path(item.link_target())), 0o777
                archive.addfile(member)
            elif item.is_folder:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif item.is_file:
                member.size = item.status.st_size
                with item.opened() as file, os.fdopen(os.dup(file), "rb") as data:
                    archive.addfile(member, data)
            else:
                raise OSError(f"{folder / item.path} is not a file, a link or a folder")
    return output.getvalue()


def unpack_tree(archive: Path, target: Path) -> None:
    """Create the folder `target` from an archive of `pack_tree`. Modes depend neither on the umask nor on the user.

    `archive` is trusted: its links may point anywhere.
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

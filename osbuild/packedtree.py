"""A folder of files as one file, for what a wheel does not keep.

pip loses links, empty folders and all of a mode but whether a file is executable, and compiles each Python file.
"""

import io
import os
import stat
import tarfile
from pathlib import Path

from osbuild.mode import fixed_mode
from osbuild.walk import walk

CACHED = "__pycache__"


def pack(folder: Path) -> bytes:
    """A tar (POSIX.1-2001) of what is below `folder`, byte code left out; the same bytes on every host."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in walk(folder):
            name = os.path.relpath(entry.path, folder)
            if CACHED in name.split("/"):
                continue
            status = entry.stat(follow_symlinks=False)
            member = tarfile.TarInfo(name)
            member.mode = fixed_mode(status.st_mode)
            if entry.is_symlink():
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(Path(entry.path).readlink()), 0o777
                archive.addfile(member)
            elif entry.is_dir():
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif stat.S_ISREG(status.st_mode):
                data = Path(entry.path).read_bytes()
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                raise OSError(f"{entry.path} is not a file, a link or a folder")
    return output.getvalue()


def unpack(archive: Path, target: Path) -> None:
    """Create the folder `target` from what `pack` returned. Modes do not depend on the umask, or on who calls this.

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

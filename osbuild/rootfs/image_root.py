"""The folder that becomes an image's root. No link in it leads out of it, whatever packages and overlays contain.

The build runs as root on the host, and an absolute link in the image means a path of the image. So every path is
resolved by the kernel with the folder as root directory (openat2(2), RESOLVE_IN_ROOT), and every change is made
relative to the folder that was opened (the *at() system calls). Nothing else writes below a target.
"""

import ctypes
import errno
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from osbuild.host import sparse
from osbuild.host.modes import CAPABILITY, fixed_mode
from osbuild.shared.errors import Error

OPENAT2 = 437  # the number of the system call, the same on every architecture
RESOLVE = 0x01 | 0x02 | 0x10  # RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT
OPEN_HOW = struct.Struct("QQQ")  # flags, mode, resolve
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


def openat2(folder: int, path: str, flags: int) -> int:
    """Open `path` with the folder that is open as `folder` for its root directory. Raises `OSError`."""
    how = OPEN_HOW.pack(flags, 0, RESOLVE)
    while True:
        descriptor: int = _libc.syscall(OPENAT2, folder, os.fsencode(path), how, len(how))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: something was renamed while `..` was resolved
            raise OSError(number, os.strerror(number), path)


def give_to_root(file: int, mode: int) -> None:
    """Make root own an open file that is complete, then set its mode: chown(2) and write(2) remove special bits."""
    os.fchown(file, 0, 0)
    os.fchmod(file, mode)


class ImageRoot:
    """The folder `path`, which exists. Paths in it are relative; missing folders are created with mode 0755.

    All methods raise `Error` if something in the way is not what it must be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def folder(self, path: PurePath | str, *, create: bool = False) -> Iterator[int]:
        """A descriptor of a folder."""
        descriptor = self._open(PurePath(path), create)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self, path: PurePath, create: bool) -> int:
        root = os.open(self.path, FOLDER)
        try:
            return openat2(root, str(path), FOLDER)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            hint = "an overlay or element has put something else there"
            if error.errno == errno.ENOSYS or error.errno == errno.EPERM:
                hint = "the build needs openat2(2): Linux 5.6, and a container that allows it"
            raise Error(
                f"cannot open the folder: {error.strerror}", where=f"/{path} of the image", hint=hint
            ) from error
        finally:
            os.close(root)
        with self.folder(path.parent, create=True) as parent:
            try:
                os.mkdir(path.name, dir_fd=parent)
            except FileExistsError as error:
                message = f"is a link to {os.readlink(path.name, dir_fd=parent)}, which is not in the image"
                hint = "an overlay or element has put it there: remove it, or create what it leads to"
                raise Error(message, where=f"/{path} of the image", hint=hint) from error
            os.chmod(path.name, 0o755, dir_fd=parent)
        return self._open(path, create=False)

    def status(self, path: PurePath | str) -> os.stat_result | None:
        """What is at `path`, links not followed; None if nothing is."""
        path = PurePath(path)
        with suppress(FileNotFoundError), self.folder(path.parent) as parent:
            return os.stat(path.name, dir_fd=parent, follow_symlinks=False)
        return None

    def leads_to(self, path: PurePath | str) -> str:
        """What the link at `path` says."""
        path = PurePath(path)
        with self.folder(path.parent) as parent:
            return os.readlink(path.name, dir_fd=parent)

    def is_folder(self, path: PurePath | str) -> bool:
        """Whether a folder is at `path`, and not a link to one."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def read_file(self, path: PurePath | str) -> bytes:
        """Contents of a file; links are followed inside the target."""
        root = os.open(self.path, FOLDER)
        try:
            with os.fdopen(openat2(root, str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Error(
                        "is not a file", where=f"/{path} of the image", hint="an overlay or element put it there"
                    )
                return file.read()
        except OSError as error:
            hint = "an overlay or element has removed or replaced it"
            raise Error(f"cannot be read: {error.strerror}", where=f"/{path} of the image", hint=hint) from error
        finally:
            os.close(root)

    def write_file(self, path: PurePath | str, data: bytes | str, mode: int = 0o644) -> None:
        """Create or replace a file, owned by root. A link there is replaced, not followed."""
        with self._new(PurePath(path)) as file:
            with os.fdopen(os.dup(file), "wb") as output:
                output.write(data.encode() if isinstance(data, str) else data)
            give_to_root(file, mode)

    def copy_file(self, source: int, path: PurePath | str, time: int) -> None:
        """Create or replace a file with the contents of the open file `source`, dated `time`, owned by root.

        Its mode is that of `source` as `fixed_mode` has it; a program's capabilities are kept.
        """
        with self._new(PurePath(path)) as file:
            sparse.copy_sparse(source, file)
            give_to_root(file, fixed_mode(os.fstat(source).st_mode))
            with suppress(OSError):  # it has none, or its file system knows none
                os.setxattr(file, CAPABILITY, os.getxattr(source, CAPABILITY))
            os.utime(file, (time, time))

    @contextmanager
    def _new(self, path: PurePath) -> Iterator[int]:
        with self.folder(path.parent, create=True) as parent:
            self._unlink(path, parent)
            file = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                yield file
            finally:
                os.close(file)

    def _unlink(self, path: PurePath, parent: int) -> None:
        try:
            os.unlink(path.name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except IsADirectoryError as error:
            hint = "an overlay or element has put it there: remove it"
            raise Error("is a folder, and must be a file", where=f"/{path} of the image", hint=hint) from error

    def make_link(self, path: PurePath | str, to: str | Path, time: int | None = None) -> None:
        """Create or replace a symbolic link."""
        path = PurePath(path)
        with self.folder(path.parent, create=True) as parent:
            self._unlink(path, parent)
            os.symlink(to, path.name, dir_fd=parent)
            os.chown(path.name, 0, 0, dir_fd=parent, follow_symlinks=False)
            if time is not None:
                os.utime(path.name, (time, time), dir_fd=parent, follow_symlinks=False)

    def make_folder(self, path: PurePath | str, mode: int = 0o755) -> None:
        """Create a folder, in the place of a file or link; one that is there keeps its mode."""
        path = PurePath(path)
        if self.is_folder(path):
            return
        with self.folder(path.parent, create=True) as parent:
            self._unlink(path, parent)
            os.mkdir(path.name, dir_fd=parent)
            os.chown(path.name, 0, 0, dir_fd=parent)
            os.chmod(path.name, mode, dir_fd=parent)

    def remove_path(self, path: PurePath | str) -> None:
        """Delete a file, a link or a folder with all that is in it, if it is there."""
        path = PurePath(path)
        status = self.status(path)
        if status is None:
            return
        with self.folder(path.parent) as parent:
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(path.name, dir_fd=parent)
            else:
                os.unlink(path.name, dir_fd=parent)

    def empty_folder(self, path: PurePath | str) -> None:
        """Delete everything in a folder. It is created if there is none, also in the place of a link."""
        self.make_folder(path)
        with self.folder(path) as folder:
            names = os.listdir(folder)  # noqa: PTH208 - a descriptor
        for name in names:
            self.remove_path(PurePath(path, name))

    def rename(self, path: PurePath | str, to: PurePath | str) -> None:
        """Move what is at `path`; links are not followed."""
        path, to = PurePath(path), PurePath(to)
        with self.folder(path.parent) as source, self.folder(to.parent, create=True) as target:
            try:
                os.rename(path.name, to.name, src_dir_fd=source, dst_dir_fd=target)
            except OSError as error:
                message = f"cannot be moved to /{to}: {error.strerror}"
                raise Error(message, where=f"/{path} of the image", hint=f"is something at /{to} already?") from error

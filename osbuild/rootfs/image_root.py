"""The folder that becomes the root of an image. Links in it can't lead out of it.

The build runs as root on the host, and an absolute link in the image means a path of the image. So the kernel resolves
every path with the folder as root directory (openat2(2), RESOLVE_IN_ROOT), and every change is relative to an open
folder (the *at() system calls). No other code writes below the folder.
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
    """Open `path` with the open folder `folder` as root directory and return a descriptor. Raises `OSError`."""
    how = OPEN_HOW.pack(flags, 0, RESOLVE)
    while True:
        descriptor: int = _libc.syscall(OPENAT2, folder, os.fsencode(path), how, len(how))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: a rename happened while `..` was resolved
            raise OSError(number, os.strerror(number), path)


def give_to_root(file: int, mode: int) -> None:
    """Make root the owner of a complete open file, then set its mode."""
    # In this order, and after all writes: chown(2) and write(2) remove setuid and setgid.
    os.fchown(file, 0, 0)
    os.fchmod(file, mode)


class ImageRoot:
    """The folder `path`, which exists. Paths in it are relative; missing folders are created with mode 0755.

    All methods raise `Error` if a file of another kind is in the way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def folder(self, path: PurePath | str, *, create: bool = False) -> Iterator[int]:
        """Open a folder and return its descriptor."""
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
            hint = "an overlay or element has created a file or link at this path"
            if error.errno == errno.ENOSYS or error.errno == errno.EPERM:
                hint = "the build needs openat2(2): Linux 5.6 or later, and a container that allows it"
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
                hint = "an overlay or element has created the link: remove it, or create its target"
                raise Error(message, where=f"/{path} of the image", hint=hint) from error
            os.chmod(path.name, 0o755, dir_fd=parent)
        return self._open(path, create=False)

    def status(self, path: PurePath | str) -> os.stat_result | None:
        """Return the status of `path` without following a link; None if it does not exist."""
        path = PurePath(path)
        with suppress(FileNotFoundError), self.folder(path.parent) as parent:
            return os.stat(path.name, dir_fd=parent, follow_symlinks=False)
        return None

    def link_target(self, path: PurePath | str) -> str:
        """Return the target of the link at `path`."""
        path = PurePath(path)
        with self.folder(path.parent) as parent:
            return os.readlink(path.name, dir_fd=parent)

    def is_folder(self, path: PurePath | str) -> bool:
        """Whether `path` is a folder, not a link to a folder."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def read_file(self, path: PurePath | str) -> bytes:
        """Return the contents of a file. Links are followed inside the root."""
        root = os.open(self.path, FOLDER)
        try:
            with os.fdopen(openat2(root, str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Error(
                        "is not a file", where=f"/{path} of the image", hint="an overlay or element has replaced it"
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

        Its mode is `fixed_mode` of the mode of `source`. Capabilities are copied.
        """
        with self._new(PurePath(path)) as file:
            sparse.copy_sparse(source, file)
            give_to_root(file, fixed_mode(os.fstat(source).st_mode))
            with suppress(OSError):  # the file has no capabilities, or its file system does not support them
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
            hint = "an overlay or element has created this folder: remove it"
            raise Error("is a folder, but a file is required", where=f"/{path} of the image", hint=hint) from error

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
        """Create a folder, replacing a file or link. An existing folder keeps its mode."""
        path = PurePath(path)
        if self.is_folder(path):
            return
        with self.folder(path.parent, create=True) as parent:
            self._unlink(path, parent)
            os.mkdir(path.name, dir_fd=parent)
            os.chown(path.name, 0, 0, dir_fd=parent)
            os.chmod(path.name, mode, dir_fd=parent)

    def remove_path(self, path: PurePath | str) -> None:
        """Delete a file, a link, or a folder with its contents, if it exists."""
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
        """Delete everything in a folder. Creates the folder if it is missing, replacing a file or link."""
        self.make_folder(path)
        with self.folder(path) as folder:
            names = os.listdir(folder)  # noqa: PTH208 - a descriptor
        for name in names:
            self.remove_path(PurePath(path, name))

    def rename(self, path: PurePath | str, to: PurePath | str) -> None:
        """Rename `path` to `to`. Links are not followed."""
        path, to = PurePath(path), PurePath(to)
        with self.folder(path.parent) as source, self.folder(to.parent, create=True) as target:
            try:
                os.rename(path.name, to.name, src_dir_fd=source, dst_dir_fd=target)
            except OSError as error:
                message = f"cannot be moved to /{to}: {error.strerror}"
                raise Error(
                    message, where=f"/{path} of the image", hint=f"check whether /{to} exists already"
                ) from error

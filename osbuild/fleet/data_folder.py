"""The data folder of an update server."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from osbuild.host import log
from osbuild.shared.errors import Error
from osbuild.shared.locks import lock_descriptor

PATIENCE = 5.0  # seconds for a server that ends


@dataclass(frozen=True)
class DataFolder:
    """A data folder that is locked until `close`, or the end of this process."""

    path: Path
    lock: int  # a file descriptor

    @property
    def database(self) -> Path:
        """The database, if it is a file of SQLite."""
        return self.path / "fleet.db"

    @property
    def files(self) -> Path:
        """The folder of the bundles."""
        return self.path / "files"

    @property
    def tls(self) -> Path:
        """The folder of the authorities and the server's own certificate."""
        return self.path / "tls"

    def close(self) -> None:
        """Let another server use the folder."""
        os.close(self.lock)


def open_data_folder(path: Path, *, shared: bool = False) -> DataFolder:
    """Return the data folder at `path`, which is created if it does not exist.

    Several servers may share it if their database is elsewhere. Raises `Error`, also if another server uses the folder.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        folder = DataFolder(path, lock)
        folder.tls.mkdir(mode=0o700, exist_ok=True)
        lock_descriptor(lock, shared=shared, patience=PATIENCE)
        warn_if_readable(path)
    except BlockingIOError as error:
        hint = "stop the other server, or name another folder with --data"
        raise Error("another update server uses this data folder", where=str(path), hint=hint) from error
    except (FileExistsError, NotADirectoryError) as error:
        hint = "name a folder with --data: a new one, or that of an earlier start"
        raise Error("the data folder is not a folder", where=str(path), hint=hint) from error
    except OSError as error:
        raise Error(f"the data folder can't be opened: {error.strerror}", where=str(path)) from error
    return folder


def warn_if_readable(path: Path) -> None:
    """Log a warning if others may read a data folder that was not created by a server. Raises `OSError`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007:
        log.warn(f"{path}: everybody on this machine can read the data folder: chmod o-rwx {path}")

"""A folder of results, each under the key of everything that went into it."""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from osbuild.mode import CAPABILITY, fixed_mode
from osbuild.walk import walk

DEFAULT_LIMIT = 20 * 2**30


def default_root() -> Path:
    """`$EDGE_OSBUILD_CACHE`, or `edge-osbuild` in the user's cache folder (XDG base directory specification)."""
    if named := os.environ.get("EDGE_OSBUILD_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-osbuild"


def content_key(*parts: object) -> str:
    """A short hash of `parts`, which are anything that JSON can write."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(*roots: Path, code: bool = False) -> str:
    """sha256 of everything below `roots`, in that order, that can matter to an image.

    These are names, kinds, permissions as `fixed_mode` has them, link targets, contents and capabilities. `code` leaves
    out the byte code that running a program of ours creates beside it.
    """
    digest = hashlib.sha256()
    for root in roots:
        for fields in _records(root, code):
            digest.update(b"".join(b"%d:%s" % (len(field), field) for field in fields) + b"\n")
    return digest.hexdigest()


def _records(root: Path, code: bool) -> Iterator[tuple[bytes, ...]]:
    yield _record(b"", str(root.resolve()))
    if root.is_dir():
        for entry in walk(root):
            if not (code and "__pycache__" in entry.path.split("/")):
                yield _record(os.fsencode(os.path.relpath(entry.path, root)), entry.path)


def _record(name: bytes, path: str) -> tuple[bytes, ...]:
    found = os.lstat(path)
    kind = b"%o" % stat.S_IFMT(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return kind, name, os.fsencode(Path(path).readlink())
    if not stat.S_ISREG(found.st_mode):
        return kind, name, b"%o" % fixed_mode(found.st_mode)
    try:
        capability = os.getxattr(path, CAPABILITY)
    except OSError:  # it has none, or its file system knows none
        capability = b""
    return kind, name, b"%o" % fixed_mode(found.st_mode), file_digest(Path(path)).encode(), capability


class Cache:
    """Entries are files or folders at `root/KIND/KEY`; one appears whole or not at all."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def folder(self, kind: str) -> Path:
        """A folder that other programs keep their own cache in."""
        path = self.root / kind
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def locked(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold a lock between processes, so that two builds don't do the same work at the same time.

        Several may hold it `shared`, to use what one that holds it alone would change.
        """
        with (self.folder("locks") / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    @contextmanager
    def scratch(self, kind: str) -> Iterator[Path]:
        """An empty folder beside the entries of a kind, gone at the end; those of killed processes go first."""
        self.sweep(kind)
        path = Path(tempfile.mkdtemp(prefix=f".partial-{os.getpid()}-", dir=self.folder(kind)))
        try:
            yield path
        finally:
            try:
                remove(path)
            except (KeyboardInterrupt, SystemExit):  # a signal that came while this was half gone
                remove(path)
                raise

    def entry(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the entry, calling `make(path)` first if there is none.

        `make` writes a file or folder at the path that it is given, in a scratch folder that it may use too.
        """
        path = self.folder(kind) / key
        with self.locked(f"{kind}-{key}"):
            if path.exists():
                os.utime(path)
                return path
            with self.scratch(kind) as scratch:
                make(scratch / "out")
                (scratch / "out").rename(path)
        return path

    def sweep(self, kind: str = "*") -> None:
        """Remove the scratch folders that killed processes have left, of one kind or of all."""
        for left in self.root.glob(f"{kind}/.partial-*-*"):
            if not Path("/proc", left.name.split("-")[1]).exists():
                with suppress(FileNotFoundError):  # another build is at it too
                    remove(left)

    def prune(self, kinds: tuple[str, ...], limit: int = DEFAULT_LIMIT) -> int:
        """Remove the entries of `kinds` that were unused for longest until they fit in `limit` bytes.

        Another build may remove some at the same time: what is gone is gone. Whatever killed ones have left goes too.
        """
        self.sweep()
        entries = []
        for path in (path for kind in kinds for path in self.folder(kind).iterdir() if path.name[0] != "."):
            with suppress(FileNotFoundError):
                entries.append((path.stat().st_mtime, path))
        used = freed = 0
        for _, path in sorted(entries, reverse=True):
            with suppress(FileNotFoundError):
                size = disk_usage(path)
                used += size
                if used > limit:
                    remove(path)
                    freed += size
        return freed


def disk_usage(path: Path) -> int:
    """Bytes that a file or folder takes on disk, links not followed."""
    total = path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        for base, folders, files in os.walk(path):
            for name in [*folders, *files]:
                total += os.lstat(f"{base}/{name}").st_blocks * 512
    return total


def remove(path: Path) -> None:
    """Delete a file or folder. Never crosses into another file system: a mount inside is an error, not deleted."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    device = path.stat().st_dev
    for base, folders, _ in os.walk(path):
        for name in folders:
            inner = Path(base, name)
            if not inner.is_symlink() and inner.stat().st_dev != device:
                raise OSError(f"{inner} is a mount point: refusing to delete {path}")
    shutil.rmtree(path)

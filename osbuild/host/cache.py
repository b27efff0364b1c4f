"""The cache: a folder of results, each stored under its content key."""

import ctypes
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from osbuild.host import log
from osbuild.host.modes import CAPABILITY, fixed_mode
from osbuild.host.scratch import remove_leftovers, remove_tree, scratch_folder
from osbuild.host.walk import walk_folder
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.files import create_file, sync_path
from osbuild.shared.locks import hold_file_lock

DEFAULT_LIMIT = 20 * 2**30
REPEAT = "run the same command again, and don't edit the files while it runs"
PLAIN = re.compile(r"[\w/.,+@=~-]+")  # a path that all build programs can handle
DAMAGED = "{} was damaged in the cache and is created again"
SCRATCH = ".partial-"  # how the names of scratch folders begin
SUMS = "sums"  # the kind of cache entry that stores the digest of each other entry
_libc = ctypes.CDLL(None, use_errno=True)


def default_root() -> Path:
    """`$EDGE_OSBUILD_CACHE`, or `edge-osbuild` in the user's cache folder (XDG base directory specification).

    Raises `UsageError` for a path that apt, or programs with lists of paths such as $PYTHONPATH, would misread.
    """
    named = os.environ.get("EDGE_OSBUILD_CACHE")
    root = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edge-osbuild")).absolute()
    if not PLAIN.fullmatch(str(root)):
        message = "the cache path contains characters that some build programs cannot handle"
        hint = "set EDGE_OSBUILD_CACHE to a path that contains only letters, digits and /.,+@=~_-"
        raise UsageError(message, where=str(root), hint=hint)
    return root


def content_key(*parts: object) -> str:
    """Return a hash of `parts`, 32 hex digits. Parts are JSON values, or anything whose `str()` identifies it."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(*roots: Path, code: bool = False) -> str:
    """Return the SHA-256, in hex, of everything below `roots`, in that order, that can affect an image.

    Hashed are names, kinds, permissions (`fixed_mode`), link targets, contents and capabilities. `code` leaves out
    whatever depends on the installation of our own programs: byte code, and mode bits other than "executable".
    """
    return _digest(roots, _code_bits if code else fixed_mode, code=code)


def _digest(roots: Sequence[Path], bits: Callable[[int], int], *, code: bool = False) -> str:
    """Compute `tree_digest`; `bits` returns the permission bits of a mode that are hashed."""
    digest = hashlib.sha256()
    for root in roots:
        for fields in _records(root, bits, code=code):
            digest.update(b"".join(b"%d:%s" % (len(field), field) for field in fields) + b"\n")
    return digest.hexdigest()


def _records(root: Path, bits: Callable[[int], int], *, code: bool) -> Iterator[tuple[bytes, ...]]:
    mode = root.stat().st_mode
    start = b"%o" % stat.S_IFMT(mode), b"", b"%o" % bits(mode)
    if stat.S_ISREG(mode):
        with root.open("rb") as file:
            yield *start, *_contents(file.fileno())
    else:
        yield start
    for item in walk_folder(root) if stat.S_ISDIR(mode) else ():
        if code and "__pycache__" in item.path.parts:
            continue
        kind, name = b"%o" % stat.S_IFMT(item.status.st_mode), os.fsencode(item.path)
        if item.is_link:
            yield kind, name, os.fsencode(Path(item.link_target()))
            continue
        fields = kind, name, b"%o" % bits(item.status.st_mode)
        if item.is_file:
            with item.opened() as descriptor:
                yield *fields, *_contents(descriptor)
        else:
            yield fields


def _code_bits(mode: int) -> int:
    """Return a mode's bits without the changes of an installer, such as a read-only file."""
    return 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644


def _stored_bits(mode: int) -> int:
    """Return a mode's bits in the cache, which include setgid of packages' folders."""
    return fixed_mode(mode) | (mode & stat.S_ISGID if stat.S_ISDIR(mode) else 0)


def _contents(file: int) -> tuple[bytes, bytes]:
    """Return the SHA-256 in hex and the capabilities of an open file."""
    try:
        capability = os.getxattr(file, CAPABILITY)
    except OSError:  # the file has no capabilities, or its file system does not support them
        capability = b""
    with os.fdopen(os.dup(file), "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest().encode(), capability


class Cache:
    """Entries are files or folders at `root/KIND/KEY`. A new entry appears complete, in one rename."""

    _verified: ClassVar[set[tuple[str, int, int]]] = set()  # path, device and inode

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def folder(self, kind: str) -> Path:
        """Return the folder of a kind, created if missing. Other programs may keep their own cache in it."""
        path = self.root / kind
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def locked(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold a lock between processes (flock(2)), so that two builds don't do the same work at the same time.

        Several processes may hold it `shared` to read what the holder of an exclusive lock would change.
        """
        with hold_file_lock(self.folder("locks") / f"{name}.lock", shared=shared, create=0o666):
            yield

    @contextmanager
    def scratch(self, kind: str) -> Iterator[Path]:
        """An empty folder beside the entries of a kind, removed at the end. Removes those of killed processes first."""
        self.sweep(kind)
        with scratch_folder(self.folder(kind), SCRATCH) as path:
            yield path

    def get_or_make(
        self, kind: str, key: str, make: Callable[[Path], None], *, sha256: str | None = None,
        again: Callable[[], str] | None = None,
    ) -> Path:  # fmt: skip
        """Return the entry, calling `make(path)` first if it is missing or damaged.

        `make` writes a file or folder at `path`, whose parent is a scratch folder that it may use too. With `sha256`,
        it must write a file with that hash. `again` computes the key again afterwards, because a user may edit files
        while `make` reads them. Raises `Error` if hash or key differ.
        """
        path = self.folder(kind) / key
        with self.locked(f"{kind}-{key}"):
            if not self.find_entry(kind, key, sha256=sha256):
                with self.scratch(kind) as scratch:
                    out = scratch / "out"
                    make(out)
                    if again and again() != key:
                        raise Error(f"the input files of the {kind} were changed during the build", hint=REPEAT)
                    sync_to_disk(out)
                    self._note(kind, key, out, sha256)
                    out.rename(path)
                    sync_path(path.parent)
        return path

    def find_entry(self, kind: str, key: str, *, sha256: str | None = None) -> Path | None:
        """Return the entry, None if it is missing. A damaged entry is removed. Each process hashes an entry once."""
        path = self.folder(kind) / key
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(status.st_mode):  # entries are never links, and a link may point anywhere
            log.warn(DAMAGED.format(path))
            remove_tree(path)
            return None
        identity = (str(path), status.st_dev, status.st_ino)
        if identity not in self._verified:
            noted = self.folder(SUMS) / f"{kind}-{key}"
            if sha256 is None and not noted.exists():  # created by a version that did not store digests
                self._note(kind, key, path, None)
            elif entry_digest(path, sha256) != (sha256 or noted.read_text(errors="replace")):
                log.warn(DAMAGED.format(path))
                remove_tree(path)
                return None
            self._verified.add(identity)
        os.utime(path)
        return path

    def _note(self, kind: str, key: str, path: Path, sha256: str | None) -> None:
        """Store the digest that `find_entry` compares an entry with."""
        digest = entry_digest(path, sha256)
        if sha256 is None:
            with self.scratch(SUMS) as scratch:
                create_file(scratch / key, digest.encode())
                (scratch / key).replace(self.folder(SUMS) / f"{kind}-{key}")
        elif digest != sha256:
            raise Error(f"sha256 is {digest}, expected {sha256}", where=key, hint="this is not the pinned file")

    def sweep(self, kind: str = "*") -> None:
        """Remove the scratch folders of killed processes, of one kind or of all kinds."""
        for folder in self.root.glob(kind):
            remove_leftovers(folder, f"{SCRATCH}*")

    def prune(self, kinds: tuple[str, ...], limit: int = DEFAULT_LIMIT) -> int:
        """Remove the least recently used entries of `kinds` until the rest fits in `limit` bytes. Returns freed bytes.

        Also removes scratch folders of killed processes. Another build may prune at the same time.
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
                    remove_tree(path)
                    (self.folder(SUMS) / f"{path.parent.name}-{path.name}").unlink(missing_ok=True)
                    freed += size
        return freed


def entry_digest(path: Path, sha256: str | None = None) -> str:
    """Return the SHA-256 of a file that has a pinned one, else `tree_digest`."""
    return file_digest(path) if sha256 and path.is_file() else _digest([path], _stored_bits)


def keep_if_intact(path: Path, sha256: str, name: str = "") -> bool:
    """Whether a file with this hash is at `path`. Updates its time of use; anything else at `path` is removed.

    The warning about a damaged file shows `name`, by default the path.
    """
    if not os.path.lexists(path):
        return False
    if path.is_file() and file_digest(path) == sha256:
        os.utime(path)
        return True
    log.warn(DAMAGED.format(name or path))
    remove_tree(path)
    return False


def sync_to_disk(path: Path) -> None:
    """Write a file, or everything in a folder, to the disk, so that it survives a power cut. Raises `OSError`.

    For a folder, its whole file system is synced (syncfs(2)), because it may have thousands of files.
    """
    if not path.is_dir():
        sync_path(path)
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def move_if_intact(path: Path, target: Path, sha256: str) -> str:
    """Rename the file `path` to `target` if it has this hash, after a sync. Returns its hash. Raises `OSError`."""
    digest = file_digest(path)
    if digest == sha256:
        sync_path(path)
        path.rename(target)
    return digest


def disk_usage(path: Path) -> int:
    """Return the bytes that a file or folder takes on disk. Links are not followed."""
    total = path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        for base, folders, files in os.walk(path):
            for name in [*folders, *files]:
                total += os.lstat(f"{base}/{name}").st_blocks * 512
    return total

"""A folder of results, each under the key of everything that went into it."""

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
from osbuild.shared.locks import lock_path

DEFAULT_LIMIT = 20 * 2**30
ANEW = "run the same command again, and don't edit them while it runs"
PLAIN = re.compile(r"[\w /.,+@=~-]+")  # a path that every program of a build reads as it is
DAMAGED = "{} was damaged in the cache and is made again"
SCRATCH = ".partial-"  # how the names of scratch folders begin
SUMS = "sums"  # kind of the files that hold the digest of each entry
_libc = ctypes.CDLL(None, use_errno=True)


def default_root() -> Path:
    """`$EDGE_OSBUILD_CACHE`, or `edge-osbuild` in the user's cache folder (XDG base directory specification).

    Raises `UsageError` for a path that apt, or programs with lists of paths such as $PYTHONPATH, would misread.
    """
    named = os.environ.get("EDGE_OSBUILD_CACHE")
    root = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edge-osbuild")).absolute()
    if not PLAIN.fullmatch(str(root)):
        hint = "set EDGE_OSBUILD_CACHE to one of letters, digits, blanks and /.,+@=~_-"
        raise UsageError("the path of the cache has signs that not all programs of a build can read", where=str(root),
                         hint=hint)  # fmt: skip
    return root


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
    out what depends on where a program of ours is installed: byte code, and all of a mode but the executable bit.
    """
    return _digest(roots, _code_bits if code else fixed_mode, code=code)


def _digest(roots: Sequence[Path], bits: Callable[[int], int], *, code: bool = False) -> str:
    """sha256 as `tree_digest` has it; `bits` are those of a mode that count."""
    digest = hashlib.sha256()
    for root in roots:
        for fields in _records(root, bits, code=code):
            digest.update(b"".join(b"%d:%s" % (len(field), field) for field in fields) + b"\n")
    return digest.hexdigest()


def _records(root: Path, bits: Callable[[int], int], *, code: bool) -> Iterator[tuple[bytes, ...]]:
    mode = root.stat().st_mode
    start = b"%o" % stat.S_IFMT(mode), b"", b"%o" % bits(mode)
    if stat.S_ISREG(mode):
        with root.open("rb") as whole:
            yield *start, *_contents(whole.fileno())
    else:
        yield start
    for found in walk_folder(root) if stat.S_ISDIR(mode) else ():
        if code and "__pycache__" in found.path.parts:
            continue
        kind, name = b"%o" % stat.S_IFMT(found.status.st_mode), os.fsencode(found.path)
        if found.is_link:
            yield kind, name, os.fsencode(Path(found.leads_to()))
            continue
        fields = kind, name, b"%o" % bits(found.status.st_mode)
        if found.is_file:
            with found.opened() as file:
                yield *fields, *_contents(file)
        else:
            yield fields


def _code_bits(mode: int) -> int:
    """A mode without what an installer adds, such as no permission to write."""
    return 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644


def _stored_bits(mode: int) -> int:
    """A mode as the cache keeps it: packages have folders that give their group on (setgid)."""
    return fixed_mode(mode) | (mode & stat.S_ISGID if stat.S_ISDIR(mode) else 0)


def _contents(file: int) -> tuple[bytes, bytes]:
    """sha256 in hex and the capabilities of an open file."""
    try:
        capability = os.getxattr(file, CAPABILITY)
    except OSError:  # it has none, or its file system knows none
        capability = b""
    with os.fdopen(os.dup(file), "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest().encode(), capability


class Cache:
    """Entries are files or folders at `root/KIND/KEY`; one appears whole or not at all."""

    _verified: ClassVar[set[tuple[str, int, int]]] = set()  # path, device and inode

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
        with lock_path(self.folder("locks") / f"{name}.lock", shared=shared, create=0o666):
            yield

    @contextmanager
    def scratch(self, kind: str) -> Iterator[Path]:
        """An empty folder beside the entries of a kind, gone at the end; those of killed processes go first."""
        self.sweep(kind)
        with scratch_folder(self.folder(kind), SCRATCH) as path:
            yield path

    def get_or_make(
        self, kind: str, key: str, make: Callable[[Path], None], *, sha256: str | None = None,
        again: Callable[[], str] | None = None,
    ) -> Path:  # fmt: skip
        """Return the entry, calling `make(path)` first if there is none, or if it was damaged.

        `make` writes a file or folder at the path that it is given, in a scratch folder that it may use too. With
        `sha256` it must be a file with that hash. `again` makes the key anew, of files that a user may edit while
        `make` reads them. Raises `Error` if the hash or the key is another one.
        """
        path = self.folder(kind) / key
        with self.locked(f"{kind}-{key}"):
            if not self.find_entry(kind, key, sha256=sha256):
                with self.scratch(kind) as scratch:
                    out = scratch / "out"
                    make(out)
                    if again and again() != key:
                        raise Error(f"the files that the {kind} are made of were changed meanwhile", hint=ANEW)
                    sync_to_disk(out)
                    self._note(kind, key, out, sha256)
                    out.rename(path)
                    sync_path(path.parent)
        return path

    def find_entry(self, kind: str, key: str, *, sha256: str | None = None) -> Path | None:
        """The entry if there is one, as it was made: what was damaged since is removed. Hashed once by each process."""
        path = self.folder(kind) / key
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(status.st_mode):  # none is made as a link, which may lead anywhere
            log.warn(DAMAGED.format(path))
            remove_tree(path)
            return None
        identity = (str(path), status.st_dev, status.st_ino)
        if identity not in self._verified:
            noted = self.folder(SUMS) / f"{kind}-{key}"
            if sha256 is None and not noted.exists():  # made by a version that did not note it
                self._note(kind, key, path, None)
            elif entry_digest(path, sha256) != (sha256 or noted.read_text()):
                log.warn(DAMAGED.format(path))
                remove_tree(path)
                return None
            self._verified.add(identity)
        os.utime(path)
        return path

    def _note(self, kind: str, key: str, path: Path, sha256: str | None) -> None:
        """Keep what `find_entry` compares an entry with."""
        made = entry_digest(path, sha256)
        if sha256 is None:
            with self.scratch(SUMS) as scratch:
                create_file(scratch / key, made.encode())
                (scratch / key).replace(self.folder(SUMS) / f"{kind}-{key}")
        elif made != sha256:
            raise Error(f"sha256 is {made}, expected {sha256}", where=key, hint="it is not the pinned file")

    def sweep(self, kind: str = "*") -> None:
        """Remove the scratch folders that killed processes have left, of one kind or of all."""
        for folder in self.root.glob(kind):
            remove_leftovers(folder, f"{SCRATCH}*")

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
                    remove_tree(path)
                    (self.folder(SUMS) / f"{path.parent.name}-{path.name}").unlink(missing_ok=True)
                    freed += size
        return freed


def entry_digest(path: Path, sha256: str | None = None) -> str:
    """What an entry is compared by: the sha256 of a file that must have a certain one, else that of a tree."""
    return file_digest(path) if sha256 and path.is_file() else _digest([path], _stored_bits)


def intact(path: Path, sha256: str, name: str = "") -> bool:
    """Whether a file with this hash is at `path`, which then counts as used; anything else there is removed.

    `name` is what the warning calls it, by default its path.
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
    """Bring a file, or everything in a folder, to the disk: a power cut leaves no entry without contents.

    For a folder that is its whole file system (syncfs(2)): it may have thousands of files.
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
    """Rename the file `path` to `target` if it has this hash, its contents on the disk first; returns its hash."""
    digest = file_digest(path)
    if digest == sha256:
        sync_path(path)
        path.rename(target)
    return digest


def disk_usage(path: Path) -> int:
    """Bytes that a file or folder takes on disk, links not followed."""
    total = path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        for base, folders, files in os.walk(path):
            for name in [*folders, *files]:
                total += os.lstat(f"{base}/{name}").st_blocks * 512
    return total

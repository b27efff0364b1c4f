"""What an update would change: a build or bundle against another one."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from osbuild.bundle import blocks, hook, info, source
from osbuild.host.cache import Cache
from osbuild.inputs.build_manifest import ComponentRecord, Manifest, PackageRecord
from osbuild.shared.errors import Error

INDEX = "block-hash-index"
DIGEST = 32  # bytes of a sha256
Versioned = ComponentRecord | PackageRecord


@dataclass(frozen=True)
class ComparedBuild:
    """One of the two: what the build says about itself, and sha256 of each block of the root, its tree, boot files.

    Of the boot files it is the beginning of the sha256. `indexed`: a device makes the root's index out of the tree.
    """

    path: Path
    compatible: str
    manifest: Manifest
    root: tuple[bytes, ...]
    tree: tuple[bytes, ...]
    boot: tuple[bytes, ...]
    indexed: bool = False


@dataclass(frozen=True)
class Delta:
    """How much of a part is not in the old one: bytes in blocks of 4 KiB, of `size` bytes."""

    changed: int
    size: int

    @property
    def percent(self) -> float:
        return 100 * self.changed / self.size if self.size else 0.0


@dataclass(frozen=True)
class Change:
    """One package, component, or other named thing; `old` or `new` is None where it is not there."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Comparison:
    """Everything that differs. `index` is what an adaptive update reads first, in bytes; `remarks` are sentences."""

    old: ComparedBuild
    new: ComparedBuild
    packages: tuple[Change, ...]
    components: tuple[Change, ...]
    root: Delta
    tree: Delta
    boot: Delta
    index: int
    remarks: tuple[str, ...]

    @property
    def download(self) -> int:
        """Bytes that a device that runs the old one needs at least, before compression."""
        return self.root.changed + self.tree.changed + self.boot.changed + self.index


def read_side(path: Path, cache: Cache) -> ComparedBuild:
    """The build in the folder `path`, or the bundle at it. Raises `Error`."""
    if path.is_dir():
        found = source.read_build(path)
        try:
            root, tree = tuple(blocks.hash_blocks(found.root)), tuple(blocks.hash_blocks(found.tree))
            boot = tuple(digest[: blocks.DIGEST] for each in found.boot.values() for digest in blocks.hash_blocks(each))
            indexed = found.indexed
        except OSError as error:
            raise Error(f"cannot be read: {error.strerror}", where=str(error.filename), hint=source.AGAIN) from error
        return ComparedBuild(
            path, found.compatible, replace(found.manifest, change_owner=found.change_owner), root, tree, boot, indexed
        )
    if path.is_file() and not info.is_bundle(path):
        hint = "name the folder of a build, or a bundle: images are not compared"
        raise Error("this is neither a build nor a bundle", where=str(path), hint=hint)
    about = info.read_bundle(path, cache)
    try:
        manifest = Manifest.parse(info.read_bundle_file(path, "build.json", cache))
    except ValueError as error:
        raise Error(f"its build.json is damaged: {error}", where=str(path), hint="make the bundle again") from error
    try:
        index, indexed = read_root_hashes(info.read_bundle_file(path, "verity.img", cache)), True
    except hook.HookError:
        index, indexed = info.read_bundle_file(path, f"root.img.{INDEX}", cache), False
    trees, boots = (info.read_bundle_file(path, name, cache) for name in (f"verity.img.{INDEX}", "boot.hashes"))
    return ComparedBuild(
        path,
        about.compatible,
        manifest,
        split_digests(index),
        split_digests(trees),
        split_digests(boots, blocks.DIGEST),
        indexed,
    )


def read_root_hashes(tree: bytes) -> bytes:
    """sha256 of each block of a root, out of its hash tree. Raises `hook.HookError` where that is of another kind."""
    return hook.read_leaves(io.BytesIO(tree), {})[0]


def split_digests(table: bytes, size: int = DIGEST) -> tuple[bytes, ...]:
    """The digests in a table of them, `size` bytes each."""
    return tuple(table[at : at + size] for at in range(0, len(table), size))


def compare_builds(old: ComparedBuild, new: ComparedBuild) -> Comparison:
    """What changes from `old` to `new`."""
    remarks = []
    if old.compatible != new.compatible:
        remarks.append(f"a device with {old.compatible} refuses {new.compatible}")
    elif old.manifest.roothash == new.manifest.roothash:
        remarks.append("the roots are the same")
    versions = [side.manifest.version for side in (old, new)]
    if versions[0] == versions[1] and old.manifest.key != new.manifest.key:
        remarks.append(f"both call themselves {versions[0]}")
    before, after = (set(side.manifest.trusted_roots) for side in (old, new))
    if before and after and not before & after and not new.manifest.change_owner:
        remarks.append("a device with the old one refuses it: the new image trusts none of the same roots")
    index = DIGEST * (len(new.tree) + (0 if new.indexed else len(new.root))) + blocks.DIGEST * len(set(new.boot))
    return Comparison(
        old, new, tuple(named_changes(old.manifest.packages, new.manifest.packages)),
        tuple(named_changes(old.manifest.components, new.manifest.components)), block_delta(old.root, new.root),
        block_delta(old.tree, new.tree), block_delta(old.boot, new.boot), index, tuple(remarks),
    )  # fmt: skip


def block_delta(old: Iterable[bytes], new: Iterable[bytes]) -> Delta:
    """Blocks of `new` that are nowhere in `old`; each counts once, as it is read once."""
    wanted = set(new)
    return Delta(len(wanted - set(old)) * blocks.SIZE, len(wanted) * blocks.SIZE)


def named_changes(old: Iterable[Versioned], new: Iterable[Versioned]) -> Iterator[Change]:
    """What is only in one of two lists of named and versioned things, or has another version or sha256."""
    before = {part.name: part for part in old}
    after = {part.name: part for part in new}
    for name in sorted(before.keys() | after.keys()):
        first, second = before.get(name), after.get(name)
        if first is None or second is None or _state(first) != _state(second):
            yield Change(name, _version(first), _version(second))


def _state(part: Versioned) -> tuple[str, ...]:
    return (part.version, part.sha256) if isinstance(part, PackageRecord) else (part.version, part.distribution)


def _version(part: Versioned | None) -> str | None:
    if isinstance(part, ComponentRecord) and part.distribution:
        return f"{part.distribution} {part.version}"
    return part.version if part else None

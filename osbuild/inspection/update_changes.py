"""Compares two builds or bundles: what an update from one to the other changes."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from osbuild.bundle import blocks, hook, info, source
from osbuild.host.cache import Cache
from osbuild.inputs.build_manifest import ComponentRecord, Manifest, PackageRecord
from osbuild.shared.errors import Error

INDEX = "block-hash-index"
DIGEST = 32  # bytes of a SHA-256
Versioned = ComponentRecord | PackageRecord


@dataclass(frozen=True)
class ComparedBuild:
    """One of the compared builds, with the SHA-256 of each block of root, hash tree and boot images.

    Digests of boot images are shortened. With `indexed`, a device makes the root's index from the hash tree.
    """

    path: Path
    compatible: str
    manifest: Manifest
    root: tuple[bytes, ...]
    hash_tree: tuple[bytes, ...]
    boot: tuple[bytes, ...]
    indexed: bool = False


@dataclass(frozen=True)
class Delta:
    """The bytes of a part, of `size` bytes, that are not in the old build, in whole blocks of 4 KiB."""

    changed: int
    size: int

    @property
    def percent(self) -> float:
        return 100 * self.changed / self.size if self.size else 0.0


@dataclass(frozen=True)
class Change:
    """One package or component. `old` or `new` version is None if that build does not have it."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Comparison:
    """All differences. `index` are the bytes of indexes that an adaptive update reads; `remarks` are sentences."""

    old: ComparedBuild
    new: ComparedBuild
    packages: tuple[Change, ...]
    components: tuple[Change, ...]
    root: Delta
    hash_tree: Delta
    boot: Delta
    index: int
    remarks: tuple[str, ...]

    @property
    def download(self) -> int:
        """Uncompressed bytes that a device with the old build downloads at least."""
        return self.root.changed + self.hash_tree.changed + self.boot.changed + self.index


def read_side(path: Path, cache: Cache) -> ComparedBuild:
    """Read the build in the folder `path`, or the bundle `path`. Raises `Error`."""
    if path.is_dir():
        build = source.read_build(path)
        try:
            root, hash_tree = tuple(blocks.hash_blocks(build.root)), tuple(blocks.hash_blocks(build.hash_tree))
            boot = tuple(
                digest[: blocks.DIGEST]
                for boot_image in build.boot.values()
                for digest in blocks.hash_blocks(boot_image)
            )
            indexed = build.indexed
        except OSError as error:
            raise Error(f"cannot be read: {error.strerror}", where=str(error.filename), hint=source.AGAIN) from error
        return ComparedBuild(
            path,
            build.compatible,
            replace(build.manifest, change_owner=build.change_owner),
            root,
            hash_tree,
            boot,
            indexed,
        )
    if path.is_file() and not info.is_bundle(path):
        hint = "name a build folder or a bundle; images can't be compared"
        raise Error("this is neither a build folder nor a bundle", where=str(path), hint=hint)
    bundle = info.read_bundle(path, cache)
    try:
        manifest = Manifest.parse(info.read_bundle_file(path, "build.json", cache))
    except ValueError as error:
        raise Error(f"build.json is damaged: {error}", where=str(path), hint="make the bundle again") from error
    try:
        index, indexed = read_root_hashes(info.read_bundle_file(path, "verity.img", cache)), True
    except hook.HookError:
        index, indexed = info.read_bundle_file(path, f"root.img.{INDEX}", cache), False
    tree_index, boot_hashes = (
        info.read_bundle_file(path, name, cache) for name in (f"verity.img.{INDEX}", "boot.hashes")
    )
    return ComparedBuild(
        path,
        bundle.compatible,
        manifest,
        split_digests(index),
        split_digests(tree_index),
        split_digests(boot_hashes, blocks.DIGEST),
        indexed,
    )


def read_root_hashes(tree: bytes) -> bytes:
    """Return the SHA-256 of each block of a root from its hash tree. Raises `hook.HookError` for another format."""
    return hook.read_leaves(io.BytesIO(tree), {})[0]


def split_digests(table: bytes, size: int = DIGEST) -> tuple[bytes, ...]:
    """Split a table of digests of `size` bytes each."""
    return tuple(table[at : at + size] for at in range(0, len(table), size))


def compare_builds(old: ComparedBuild, new: ComparedBuild) -> Comparison:
    """Return the changes from `old` to `new`."""
    remarks = []
    if old.compatible != new.compatible:
        remarks.append(f"a device with {old.compatible} refuses {new.compatible}")
    elif old.manifest.roothash == new.manifest.roothash:
        remarks.append("the root file systems are the same")
    versions = [side.manifest.version for side in (old, new)]
    if versions[0] == versions[1] and old.manifest.key != new.manifest.key:
        remarks.append(f"both have the version {versions[0]}, but they differ")
    before, after = (set(side.manifest.trusted_roots) for side in (old, new))
    if before and after and not before & after and not new.manifest.change_owner:
        remarks.append(
            "a device with the old image refuses the new image, which trusts none of the same root certificates"
        )
    index = DIGEST * (len(new.hash_tree) + (0 if new.indexed else len(new.root))) + blocks.DIGEST * len(set(new.boot))
    return Comparison(
        old, new, tuple(named_changes(old.manifest.packages, new.manifest.packages)),
        tuple(named_changes(old.manifest.components, new.manifest.components)), block_delta(old.root, new.root),
        block_delta(old.hash_tree, new.hash_tree), block_delta(old.boot, new.boot), index, tuple(remarks),
    )  # fmt: skip


def block_delta(old: Iterable[bytes], new: Iterable[bytes]) -> Delta:
    """Return the blocks of `new` that are not in `old`. Equal blocks count once, because they are downloaded once."""
    new_blocks = set(new)
    return Delta(len(new_blocks - set(old)) * blocks.SIZE, len(new_blocks) * blocks.SIZE)


def named_changes(old: Iterable[Versioned], new: Iterable[Versioned]) -> Iterator[Change]:
    """Yield packages or components that only one list has, or whose version or SHA-256 differs."""
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

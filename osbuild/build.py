"""From a profile to a folder with its image: every step in its order, each from the cache where nothing changed."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osbuild import agentapp, kubernetes, log, output, paths
from osbuild.agent.system import read_file
from osbuild.arch import Architecture
from osbuild.board import Board
from osbuild.boot.files import boot_files, boot_files_key
from osbuild.boot.flow import SLOTS, Parts, boot_name, command_line
from osbuild.boot.flows import flow
from osbuild.boot.initrd import initrd, initrd_key
from osbuild.boot.kernel import kernel, kernel_key
from osbuild.bundle import device
from osbuild.bundle.source import compatible
from osbuild.cache import ANEW, Cache, content_key, file_digest, remove, tree_digest
from osbuild.errors import Error
from osbuild.flash.mapping import bmap_of
from osbuild.image.disk import build_disk, check_headroom
from osbuild.image.layers import Base, pack_base
from osbuild.image.system import compose, compose_base
from osbuild.image.verity import derived_uuid, slot_image
from osbuild.jsontext import loads
from osbuild.keys import development
from osbuild.keys.store import Keys
from osbuild.kubernetes import Component, Sources
from osbuild.lock import Lock, current, locked_kubernetes
from osbuild.manifest import manifest
from osbuild.overlay import exposed
from osbuild.profile import accounts
from osbuild.profile.keys import plain
from osbuild.profile.load import Loaded
from osbuild.profile.model import Kubernetes
from osbuild.profile.parts import image_part
from osbuild.rootfs import rootfs, rootfs_key
from osbuild.run import workers
from osbuild.tools import Tree, tree, tree_key
from osbuild.wheels import DISKIMAGE_BUILDER, unpacked

MANIFEST = "manifest.json"  # the file that makes a folder a finished build
BOOT_PARTITION = "/efi"  # where an image mounts it
# Entries of these kinds are pruned, the oldest first; downloads and Go's own caches are not.
PRUNED = ("tools", "rootfs", "bases", "kernel", "initrd", "boot", "components", "k3s", "repositories")


@dataclass(frozen=True)
class Build:
    """A finished build: its folder, and its manifest."""

    folder: Path
    facts: Mapping[str, Any]
    fresh: bool


@dataclass(frozen=True)
class Inputs:
    """Everything that an image is made of, found out but not yet made. `trust` is whose updates it takes, as files."""

    loaded: Loaded
    board: Board
    lock: Lock
    keys: Keys
    trust: Mapping[Path, bytes]
    trees: tuple[Path, ...]
    elements: tuple[Path, ...]
    kubernetes: Kubernetes
    overlays: str
    rootfs: str
    base: str
    key: str

    @property
    def architecture(self) -> Architecture:
        return self.lock.architecture


def output_folder(loaded: Loaded, board: Board, base: Path) -> Path:
    """`base/<profile>-<version>-<board>`."""
    return base / f"{loaded.profile.name}-{loaded.profile.version}-{board.name}"


def inputs(loaded: Loaded, board: Board, lock: Lock, keys: Keys) -> Inputs:
    """Find every input and the content key of the whole, without making anything. Of `keys` only public parts count."""
    profile = loaded.profile
    trust = device.files(compatible(profile.name, board.name), keys, boot=BOOT_PARTITION)
    trees = tuple(paths.overlay(name, loaded.folder) for name in profile.overlays)
    elements = tuple(paths.element(name, loaded.folder) for name in profile.elements)
    block, component = profile.kubernetes, ""
    if block.role != "none":
        block = locked_kubernetes(loaded, lock)
        component = kubernetes.key(block, lock.architecture, base=loaded.folder)
    root = rootfs_key(lock.packages, elements, tree_key(lock.compose_tools))
    own, overlays = Path(__file__).parent, tree_digest(*trees)
    base = content_key(
        root, kernel_key(lock.kernel), component, lock.epoch, tree_key(lock.finish_tools),
        tree_digest(own / "image", *(own / f"{name}.py" for name in ("mode", "overlay", "sparse", "walk")), code=True),
    )  # fmt: skip
    code = [tree_digest(own / "boot", own / "agent", code=True), file_digest(Path(agentapp.__file__))]
    key = content_key(
        base, initrd_key(lock.initrd, lock.kernel, board.modules), boot_files_key(lock.boot), overlays,
        image_part(profile), code, lock.architecture, plain(board),
        {str(path): data.decode() for path, data in trust.items()},
    )  # fmt: skip
    return Inputs(loaded, board, lock, keys, trust, trees, elements, block, overlays, root, base, key)


def build(
    loaded: Loaded, board: Board, base: Path, cache: Cache, *, locked: bool = False,
    folder: Path | None = None, keys: Keys | None = None,
) -> Build:  # fmt: skip
    """Make the image of a profile for `board` in a folder below `base`, or find that what is there is already it.

    `locked` refuses to resolve anything anew; `folder` holds files for a build without a network. The image takes
    updates that are signed with `keys`, by default those that `osbuild.keys.development` chooses. Raises `Error`.
    """
    target = output_folder(loaded, board, base)
    output.make_folder(target)  # a folder that can't be written to is reported now, not after minutes
    lock = current(loaded, board, cache, locked=locked, folder=folder)
    if why := lock.kubernetes.get("because"):
        log.warn(
            f"the lock has Kubernetes {lock.kubernetes['version']} instead of {lock.kubernetes['requested']}: {why}. "
            "To try again: edge-osbuild lock"
        )
    if lock.without:
        log.warn(
            f"the lock was made without {', '.join(lock.without)}: the image may lack security updates. To try again: "
            "edge-osbuild lock"
        )
    wanted = inputs(loaded, board, lock, keys or development.current())
    if facts := unchanged(target, wanted.key):
        return Build(target, facts, fresh=False)
    with cache.locked("build-" + hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]):
        facts = make(wanted, target, cache, folder)
    cache.prune(PRUNED)
    return Build(target, facts, fresh=True)


def unchanged(target: Path, key: str) -> dict[str, Any] | None:
    """The manifest of what is in `target` if that is the build with this key, complete."""
    try:
        facts: dict[str, Any] = loads(read_file(target / MANIFEST))
        same = facts["key"] == key
        whole = all((target / name).stat().st_size == file["size"] for name, file in facts["files"].items())
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return facts if same and whole else None


def make(wanted: Inputs, target: Path, cache: Cache, folder: Path | None) -> dict[str, Any]:
    """Make every part of the image, then put its files into `target`, the manifest last."""
    lock, architecture, profile = wanted.lock, wanted.architecture, wanted.loaded.profile
    board, boots = wanted.board, flow(wanted.board)
    title = f"building {profile.name} {profile.version} for {board.name}"
    for overlay in wanted.trees:
        if private := exposed(overlay):
            log.warn(
                f"overlay {paths.display(overlay)}: everybody on the device may read {', '.join(private[:5])}; set "
                "mode 0400 to keep a file private, because git and umasks do not keep 0600"
            )
    with log.step(title), workers() as pool:
        # Kubernetes is compiled beside the rest: most of that is dpkg, which uses one core.
        compiled: Future[Component] | None = None
        if wanted.kubernetes.role != "none":
            inputs_from = Sources(cache, lambda: finish_tools(lock, cache, folder), folder, wanted.loaded.folder)
            compiled = pool.submit(kubernetes.component, wanted.kubernetes, architecture, inputs_from)
        composed = pool.submit(root_archive, wanted, cache, folder)
        sandbox = finish_tools(lock, cache, folder)
        linux = kernel(cache, sandbox, lock.kernel, architecture, folder=folder)
        linux.check_modules(profile.kernel.modules)
        early = initrd_key(lock.initrd, lock.kernel, board.modules)
        ramdisk = initrd(
            cache, sandbox, linux, lock.initrd, architecture,
            key=content_key(early, tree_key(lock.finish_tools)), modules=board.modules, folder=folder,
        )  # fmt: skip
        packages = boot_files(cache, sandbox, lock.boot, architecture, folder=folder)
        parts = Parts(board, sandbox, packages, linux, ramdisk, lock.epoch)
        root_tar = composed.result()
        component = compiled.result() if compiled else None
        common = [linux.tree, *([component.tree] if component else [])]
        base = base_layer(wanted, cache, sandbox, root_tar, common)
        with cache.scratch("builds") as scratch:
            system, out = scratch / "system", scratch / "out"
            out.mkdir()
            with log.step("laying the system together"):
                compose(
                    system, tools=sandbox, root_tar=root_tar, trees=[*common, *wanted.trees], profile=profile,
                    facts=image_facts(wanted, component), kubernetes=plain_kubernetes(wanted), files=wanted.trust,
                    epoch=lock.epoch,
                )  # fmt: skip
            if tree_digest(*wanted.trees) != wanted.overlays:
                raise Error("the files of the overlays were changed while the image was made", hint=ANEW)
            accounts.check_image(profile, system)
            with log.step("erofs and dm-verity"):
                image = slot_image(sandbox, base, system, out, identity=wanted.key, epoch=lock.epoch)
            free = check_headroom(profile.disk, image)
            with log.step("boot files and disk"):
                names = {slot: boot_name(boots, slot) for slot in SLOTS}
                for slot in SLOTS:
                    words = command_line(slot, image, board, profile.kernel.arguments)
                    boots.slot_file(parts, slot, words, system / "usr/lib/os-release", out / names[slot])
                build_disk(boots, parts, image, out / names["a"], profile.disk, out / "disk.img", identity=wanted.key)
            files = finish(sandbox, out, names.values())
            facts = manifest(
                profile, lock, system, linux, component, files, key=wanted.key, roothash=image.roothash, free=free,
                trust=json.loads(wanted.trust[device.TRUST]),
            )  # fmt: skip
            remove(system)
            sources: dict[str, bytes | Path] = {name: out / name for name in facts["files"]}
            manifest_text = json.dumps(facts, indent=1) + "\n"
            output.publish(target, {**sources, MANIFEST: manifest_text.encode()}, marker=MANIFEST)
    return facts


def finish_tools(lock: Lock, cache: Cache, folder: Path | None) -> Tree:
    """The tree with the programs that make an image of a root, from the cache if it is there."""
    return tree(cache, lock.finish_tools, "tools to finish with", folder=folder)


def root_archive(wanted: Inputs, cache: Cache, folder: Path | None) -> Path:
    """The root as a tar, and before it what it is composed with."""
    lock = wanted.lock
    if found := cache.find("rootfs", wanted.rootfs):
        return found
    sandbox = tree(cache, lock.compose_tools, "tools to compose with", folder=folder)
    dib = [unpacked(cache, pin, folder) for pin in DISKIMAGE_BUILDER]
    return rootfs(
        cache, sandbox, dib, lock.packages, wanted.architecture, elements=wanted.elements, key=wanted.rootfs,
        folder=folder, again=lambda: rootfs_key(lock.packages, wanted.elements, tree_key(lock.compose_tools)),
    )  # fmt: skip


def base_layer(wanted: Inputs, cache: Cache, sandbox: Tree, root_tar: Path, trees: Sequence[Path]) -> Base:
    """The root's first layer, from the cache if it is there: the packages with `trees` over them."""

    def make(path: Path) -> None:
        with log.step("base of the root"):
            system, epoch = path.with_name("system"), wanted.lock.epoch
            compose_base(system, tools=sandbox, root_tar=root_tar, trees=trees, epoch=epoch)
            pack_base(sandbox, system, path, uuid=derived_uuid(wanted.base), epoch=epoch)

    return Base(cache.entry("bases", wanted.base, make))


def image_facts(wanted: Inputs, component: Component | None) -> dict[str, Any]:
    """What `/usr/lib/edge-osbuild/image.json` says."""
    profile = wanted.loaded.profile
    cluster = {"role": wanted.kubernetes.role}
    if component:
        cluster |= {"distribution": component.facts["distribution"], "version": component.version}
    return {
        "name": profile.name, "version": profile.version, "architecture": wanted.architecture,
        "board": wanted.board.name, "boot": wanted.board.boot, "kubernetes": cluster,
        "health": {"deadline": profile.health.deadline}, "update": asdict(profile.update),
        "seed": {"media": profile.seed.media},
    }  # fmt: skip


def plain_kubernetes(wanted: Inputs) -> dict[str, Any] | None:
    """The profile's `kubernetes` as the image carries it: nothing that belongs to a seed."""
    if wanted.kubernetes.role == "none":
        return None
    part = image_part(wanted.loaded.profile)["kubernetes"]
    return {**part, **{name: plain(getattr(wanted.kubernetes, name)) for name in ("distribution", "version")}}


def finish(sandbox: Tree, out: Path, boot_names: Iterable[str]) -> dict[str, Any]:
    """Compress the disk, map its blocks, hash every file of the build: size, bytes used on disk, and sha256 of each.

    `boot_names` are the slots' boot files.
    """
    with log.step("compressing and hashing"), ThreadPoolExecutor() as pool:
        packed = pool.submit(
            sandbox.run,
            ["zstd", "-q", "-3", "-T2", "--no-progress", out / "disk.img", "-o", out / "disk.img.zst"],
            [out],
        )
        (out / "disk.bmap").write_text(bmap_of(out / "disk.img").to_xml())
        names = ["disk.img", "disk.bmap", "root.erofs", "root.verity", *boot_names]
        sums = dict(zip(names, pool.map(lambda name: file_digest(out / name), names), strict=True))
        packed.result()
        sums["disk.img.zst"] = file_digest(out / "disk.img.zst")
    facts = {name: (out / name).stat() for name in sums}
    return {
        name: {
            "sha256": digest, "size": facts[name].st_size,
            "used": min(facts[name].st_blocks * 512, facts[name].st_size),
        }
        for name, digest in sums.items()
    }  # fmt: skip

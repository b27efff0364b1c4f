"""From a profile to a folder with its image: every step in its order, each from the cache where nothing changed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osbuild.boot.flow import BootParts, boot_image_name, kernel_command_line
from osbuild.boot.initrd import build_initrd, initrd_key
from osbuild.boot.kernel import kernel_key, unpack_kernel
from osbuild.boot.packages import boot_packages_key, unpack_boot_packages
from osbuild.boot.registry import boot_flow
from osbuild.boot.slot import SLOTS
from osbuild.config.affected import image_keys
from osbuild.config.board import Board
from osbuild.config.checks.overlays import find_exposed
from osbuild.config.key_table import to_json
from osbuild.config.load import LoadedProfile
from osbuild.config.profile import KubernetesSettings
from osbuild.host import log, output, paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import ANEW, Cache, content_key, file_digest, remove_tree, tree_digest
from osbuild.host.run import worker_threads
from osbuild.image import update_trust
from osbuild.image.block_map import make_bmap
from osbuild.image.disk import build_disk, check_headroom
from osbuild.image.layers import BaseLayer, pack_base
from osbuild.image.rauc_config import compatible_of
from osbuild.image.verity import derived_uuid, make_slot_image
from osbuild.inputs.build_manifest import MANIFEST, FileRecord, Manifest, TrustRecord
from osbuild.inputs.lock import Lock
from osbuild.inputs.wheels import DISKIMAGE_BUILDER, unpack_wheel
from osbuild.keys import development
from osbuild.keys.key_folder import KeyFolder
from osbuild.kubernetes import component
from osbuild.kubernetes.component import Component, ComponentSources
from osbuild.pipeline.manifest import make_manifest
from osbuild.pipeline.resolve import current_lock, locked_kubernetes
from osbuild.rootfs import image_accounts
from osbuild.rootfs.assembly import assemble_base, assemble_system
from osbuild.rootfs.debian_root import make_rootfs, rootfs_key
from osbuild.sandbox.tools_tree import ToolsTree, make_tools_tree, tools_tree_key
from osbuild.shared.errors import Error
from osbuild.shared.json_text import parse_json
from osbuild.shared.records import parse_record

BOOT_PARTITION = "/efi"  # where an image mounts it
# Modules that decide what a base layer holds, and those that decide about the rest of an image.
BASE_CODE = (
    "boot/slot.py", "config/checks/overlays.py", "host/modes.py", "host/sparse.py", "host/walk.py", "image/disk.py",
    "image/layers.py", "image/verity.py", "rootfs/assembly.py", "rootfs/image_root.py",
)  # fmt: skip
IMAGE_CODE = ("agent", "boot", "formats/uimage.py", "rootfs/agent_zipapp.py", "shared")
# Entries of these kinds are pruned, the oldest first; downloads and Go's own caches are not.
PRUNED = ("tools", "rootfs", "bases", "kernel", "initrd", "boot", "components", "k3s", "repositories")


@dataclass(frozen=True)
class Build:
    """A finished build: its folder, and its manifest."""

    folder: Path
    manifest: Manifest
    fresh: bool


@dataclass(frozen=True)
class BuildInputs:
    """Everything that an image is made of, found out but not yet made. `trust` is whose updates it takes, as files."""

    loaded: LoadedProfile
    board: Board
    lock: Lock
    keys: KeyFolder
    trust: Mapping[Path, bytes]
    trees: tuple[Path, ...]
    elements: tuple[Path, ...]
    kubernetes: KubernetesSettings
    overlays: str
    rootfs: str
    base: str
    key: str

    @property
    def architecture(self) -> Architecture:
        return self.lock.architecture


def build_folder(loaded: LoadedProfile, board: Board, base: Path) -> Path:
    """`base/<profile>-<version>-<board>`."""
    return base / f"{loaded.profile.name}-{loaded.profile.version}-{board.name}"


def find_inputs(loaded: LoadedProfile, board: Board, lock: Lock, keys: KeyFolder) -> BuildInputs:
    """Find every input and the content key of the whole, without making anything. Of `keys` only public parts count."""
    profile = loaded.profile
    trust = update_trust.trust_files(compatible_of(profile.name, board.name), keys, boot=BOOT_PARTITION)
    trees = tuple(paths.overlay_path(name, loaded.folder) for name in profile.overlays)
    elements = tuple(paths.element_path(name, loaded.folder) for name in profile.elements)
    block, kubernetes_key = profile.kubernetes, ""
    if block.role != "none":
        block = locked_kubernetes(loaded, lock)
        kubernetes_key = component.component_key(block, lock.architecture, base=loaded.folder)
    root = rootfs_key(lock.packages, elements, tools_tree_key(lock.compose_tools))
    own, overlays = Path(__file__).parents[1], tree_digest(*trees)
    base = content_key(
        root, kernel_key(lock.kernel), kubernetes_key, lock.epoch, tools_tree_key(lock.finish_tools),
        tree_digest(*(own / name for name in BASE_CODE), code=True),
    )  # fmt: skip
    code = [tree_digest(*(own / name for name in IMAGE_CODE), code=True)]
    key = content_key(
        base, initrd_key(lock.initrd, lock.kernel, board.modules), boot_packages_key(lock.boot), overlays,
        image_keys(profile), code, lock.architecture, to_json(board),
        {str(path): data.decode() for path, data in trust.items()},
    )  # fmt: skip
    return BuildInputs(loaded, board, lock, keys, trust, trees, elements, block, overlays, root, base, key)


def build_image(
    loaded: LoadedProfile, board: Board, base: Path, cache: Cache, *, locked: bool = False,
    folder: Path | None = None, keys: KeyFolder | None = None,
) -> Build:  # fmt: skip
    """Make the image of a profile for `board` in a folder below `base`, or find that what is there is already it.

    `locked` refuses to resolve anything anew; `folder` holds files for a build without a network. The image takes
    updates that are signed with `keys`, by default those that `osbuild.keys.development` chooses. Raises `Error`.
    """
    target = build_folder(loaded, board, base)
    with output.new_folder(target):  # a folder that can't be written to is reported now, not after minutes
        return _build_into(target, loaded, board, cache, locked=locked, folder=folder, keys=keys)


def _build_into(
    target: Path, loaded: LoadedProfile, board: Board, cache: Cache, *, locked: bool, folder: Path | None,
    keys: KeyFolder | None,
) -> Build:  # fmt: skip
    lock = current_lock(loaded, board, cache, locked=locked, folder=folder)
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
    wanted = find_inputs(loaded, board, lock, keys or development.signing_keys())
    if manifest := read_unchanged(target, wanted.key):
        return Build(target, manifest, fresh=False)
    with cache.locked("build-" + hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]):
        manifest = make_image(wanted, target, cache, folder)
    cache.prune(PRUNED)
    return Build(target, manifest, fresh=True)


def read_unchanged(target: Path, key: str) -> Manifest | None:
    """The manifest of what is in `target` if that is the build with this key, complete."""
    try:
        manifest = Manifest.read(target)
        whole = all((target / name).stat().st_size == file.size for name, file in manifest.files.items())
    except (OSError, ValueError):
        return None
    return manifest if manifest.key == key and whole else None


def make_image(inputs: BuildInputs, target: Path, cache: Cache, folder: Path | None) -> Manifest:
    """Make every part of the image, then put its files into `target`, the manifest last."""
    lock, architecture, profile = inputs.lock, inputs.architecture, inputs.loaded.profile
    board, boots = inputs.board, boot_flow(inputs.board)
    title = f"building {profile.name} {profile.version} for {board.name}"
    for overlay in inputs.trees:
        if private := find_exposed(overlay):
            log.warn(
                f"overlay {paths.display_path(overlay)}: everybody on the device may read "
                f"{', '.join(private[:5])}; set "
                "mode 0400 to keep a file private, because git and umasks do not keep 0600"
            )
    with log.step(title), worker_threads() as pool:
        # Kubernetes is compiled beside the rest: most of that is dpkg, which uses one core.
        compiled: Future[Component] | None = None
        if inputs.kubernetes.role != "none":
            inputs_from = ComponentSources(
                cache, lambda: image_tools(lock, cache, folder), folder, inputs.loaded.folder
            )
            compiled = pool.submit(component.build_component, inputs.kubernetes, architecture, inputs_from)
        composed = pool.submit(make_root_archive, inputs, cache, folder)
        sandbox = image_tools(lock, cache, folder)
        linux = unpack_kernel(cache, sandbox, lock.kernel, architecture, folder=folder)
        linux.check_modules(profile.kernel.modules)
        early = initrd_key(lock.initrd, lock.kernel, board.modules)
        ramdisk = build_initrd(
            cache, sandbox, linux, lock.initrd, architecture,
            key=content_key(early, tools_tree_key(lock.finish_tools)), modules=board.modules, folder=folder,
        )  # fmt: skip
        packages = unpack_boot_packages(cache, sandbox, lock.boot, architecture, folder=folder)
        parts = BootParts(board, sandbox, packages, linux, ramdisk, lock.epoch)
        root_tar = composed.result()
        kubernetes_component = compiled.result() if compiled else None
        common = [linux.tree, *([kubernetes_component.tree] if kubernetes_component else [])]
        base = make_base_layer(inputs, cache, sandbox, root_tar, common)
        with cache.scratch("builds") as scratch:
            system, out = scratch / "system", scratch / "out"
            out.mkdir()
            with log.step("laying the system together"):
                assemble_system(
                    system, tools=sandbox, root_tar=root_tar, trees=[*common, *inputs.trees], profile=profile,
                    metadata=image_metadata(inputs, kubernetes_component), kubernetes=kubernetes_metadata(inputs),
                    files=inputs.trust,
                    epoch=lock.epoch,
                )  # fmt: skip
            if tree_digest(*inputs.trees) != inputs.overlays:
                raise Error("the files of the overlays were changed while the image was made", hint=ANEW)
            image_accounts.check_image_accounts(profile, system)
            with log.step("erofs and dm-verity"):
                image = make_slot_image(sandbox, base, system, out, identity=inputs.key, epoch=lock.epoch)
            free = check_headroom(profile.disk, image)
            with log.step("boot files and disk"):
                names = {slot: boot_image_name(boots, slot) for slot in SLOTS}
                for slot in SLOTS:
                    words = kernel_command_line(slot, image, board, profile.kernel.arguments)
                    boots.write_boot_image(parts, slot, words, system / "usr/lib/os-release", out / names[slot])
                build_disk(boots, parts, image, out / names["a"], profile.disk, out / "disk.img", identity=inputs.key)
            files = finish_files(sandbox, out, names.values())
            manifest = make_manifest(
                profile, lock, system, linux, kubernetes_component, files, key=inputs.key, roothash=image.roothash,
                free=free, trust=parse_record(TrustRecord, parse_json(inputs.trust[update_trust.TRUST])),
            )  # fmt: skip
            remove_tree(system)
            sources: dict[str, bytes | Path] = {name: out / name for name in manifest.files}
            output.publish_files(target, {**sources, MANIFEST: manifest.to_text().encode()}, marker=MANIFEST)
    return manifest


def image_tools(lock: Lock, cache: Cache, folder: Path | None) -> ToolsTree:
    """The tree with the programs that make an image of a root, from the cache if it is there."""
    return make_tools_tree(cache, lock.finish_tools, "tools to finish with", folder=folder)


def make_root_archive(inputs: BuildInputs, cache: Cache, folder: Path | None) -> Path:
    """The root as a tar, and before it what it is composed with."""
    lock = inputs.lock
    if path := cache.find_entry("rootfs", inputs.rootfs):
        return path
    sandbox = make_tools_tree(cache, lock.compose_tools, "tools to compose with", folder=folder)
    dib = [unpack_wheel(cache, pin, folder) for pin in DISKIMAGE_BUILDER]
    return make_rootfs(
        cache, sandbox, dib, lock.packages, inputs.architecture, elements=inputs.elements, key=inputs.rootfs,
        folder=folder, again=lambda: rootfs_key(lock.packages, inputs.elements, tools_tree_key(lock.compose_tools)),
    )  # fmt: skip


def make_base_layer(
    inputs: BuildInputs, cache: Cache, sandbox: ToolsTree, root_tar: Path, trees: Sequence[Path]
) -> BaseLayer:
    """The root's first layer, from the cache if it is there: the packages with `trees` over them."""

    def make(path: Path) -> None:
        with log.step("base of the root"):
            system, epoch = path.with_name("system"), inputs.lock.epoch
            assemble_base(system, tools=sandbox, root_tar=root_tar, trees=trees, epoch=epoch)
            pack_base(sandbox, system, path, uuid=derived_uuid(inputs.base), epoch=epoch)

    return BaseLayer(cache.get_or_make("bases", inputs.base, make))


def image_metadata(inputs: BuildInputs, component: Component | None) -> dict[str, Any]:
    """What `/usr/lib/edge-osbuild/image.json` says."""
    profile = inputs.loaded.profile
    cluster = {"role": inputs.kubernetes.role}
    if component:
        cluster |= {"distribution": component.facts["distribution"], "version": component.version}
    return {
        "name": profile.name, "version": profile.version, "architecture": inputs.architecture,
        "board": inputs.board.name, "boot": inputs.board.boot, "kubernetes": cluster,
        "health": {"deadline": profile.health.deadline}, "update": asdict(profile.update),
        "seed": {"media": profile.seed.media},
    }  # fmt: skip


def kubernetes_metadata(inputs: BuildInputs) -> dict[str, Any] | None:
    """The profile's `kubernetes` as the image carries it: nothing that belongs to a seed."""
    if inputs.kubernetes.role == "none":
        return None
    part = image_keys(inputs.loaded.profile)["kubernetes"]
    return {**part, **{name: to_json(getattr(inputs.kubernetes, name)) for name in ("distribution", "version")}}


def finish_files(sandbox: ToolsTree, out: Path, boot_names: Iterable[str]) -> dict[str, FileRecord]:
    """Compress the disk, map its blocks, hash every file of the build: size, bytes used on disk, and sha256 of each.

    `boot_names` are the slots' boot files.
    """
    with log.step("compressing and hashing"), ThreadPoolExecutor() as pool:
        packed = pool.submit(
            sandbox.run_command,
            ["zstd", "-q", "-3", "-T2", "--no-progress", out / "disk.img", "-o", out / "disk.img.zst"],
            [out],
        )
        (out / "disk.bmap").write_text(make_bmap(out / "disk.img").to_xml())
        names = ["disk.img", "disk.bmap", "root.erofs", "root.verity", *boot_names]
        sums = dict(zip(names, pool.map(lambda name: file_digest(out / name), names), strict=True))
        packed.result()
        sums["disk.img.zst"] = file_digest(out / "disk.img.zst")
    status = {name: (out / name).stat() for name in sums}
    return {
        name: FileRecord(
            sha256=digest, size=status[name].st_size, used=min(status[name].st_blocks * 512, status[name].st_size)
        )
        for name, digest in sums.items()
    }

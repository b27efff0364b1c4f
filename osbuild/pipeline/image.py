"""Makes an image from its inputs. Every step is skipped if its result is in the cache."""

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from osbuild.boot.flow import BootParts, boot_image_name, kernel_command_line
from osbuild.boot.initrd import build_initrd
from osbuild.boot.kernel import unpack_kernel
from osbuild.boot.packages import unpack_boot_packages
from osbuild.boot.registry import boot_flow
from osbuild.boot.slot import SLOTS
from osbuild.config.affected import image_keys
from osbuild.config.checks.overlays import find_dropped_attributes, find_exposed
from osbuild.config.key_table import to_json
from osbuild.host import log, output, paths
from osbuild.host.cache import REPEAT, file_digest, tree_digest
from osbuild.host.run import worker_threads
from osbuild.host.scratch import remove_tree
from osbuild.image import update_trust
from osbuild.image.block_map import make_bmap
from osbuild.image.disk import DiskLayout, build_disk, check_headroom
from osbuild.image.verity import SlotIdentity, make_slot_image
from osbuild.inputs.build_manifest import DISK, MANIFEST, PACKED_DISK, FileRecord, Manifest, TrustRecord
from osbuild.inputs.context import BuildContext
from osbuild.inputs.lock import Lock
from osbuild.inputs.wheels import DISKIMAGE_BUILDER, unpack_wheel
from osbuild.kubernetes import component
from osbuild.kubernetes.component import Component
from osbuild.kubernetes.distribution import ComponentSources
from osbuild.pipeline.base_layer import make_base_layer
from osbuild.pipeline.inputs import BuildInputs
from osbuild.pipeline.manifest import BuiltImage, make_manifest
from osbuild.rootfs import image_accounts
from osbuild.rootfs.assembly import ImageSettings, RootContents, assemble_system
from osbuild.rootfs.debian_root import make_rootfs
from osbuild.sandbox.tools_tree import ToolsTree, make_tools_tree
from osbuild.shared.errors import Error
from osbuild.shared.image_description import HealthLimits, ImageDescription, ImageKubernetes, SeedRule, UpdateLimits
from osbuild.shared.json_text import parse_json
from osbuild.shared.records import parse_record


def make_image(inputs: BuildInputs, target: Path, context: BuildContext) -> Manifest:
    """Build every part of the image, then move the files to `target`, the manifest last. Raises `Error`."""
    lock, architecture, profile = inputs.lock, inputs.architecture, inputs.loaded.profile
    cache = context.cache
    board, boots = inputs.board, boot_flow(inputs.board)
    title = f"building {profile.name} {profile.version} for {board.name}"
    for overlay in inputs.overlay_folders:
        if private := find_exposed(overlay):
            log.warn(
                f"overlay {paths.display_path(overlay)}: every user of the device may read "
                f"{', '.join(private[:5])}; set mode 0400 to keep a file private, "
                "because git and umasks do not preserve 0600"
            )
        if dropped := find_dropped_attributes(overlay):
            log.warn(
                f"overlay {paths.display_path(overlay)}: an image does not keep the ACLs and extended attributes of "
                f"{', '.join(dropped[:5])}{' and others' if dropped[5:] else ''}; let tmpfiles.d set them on the "
                "device (lines of type `a` and `t`)"
            )
    with log.step(title), worker_threads() as pool:
        # Kubernetes is compiled in parallel with the root file system, because dpkg uses only one core.
        kubernetes_build: Future[Component] | None = None
        if inputs.kubernetes.role != "none":
            inputs_from = ComponentSources(context, lambda: image_tools(lock, context), inputs.loaded.folder)
            kubernetes_build = pool.submit(component.build_component, inputs.kubernetes, architecture, inputs_from)
        root_build = pool.submit(make_root_archive, inputs, context)
        sandbox = image_tools(lock, context)
        linux = unpack_kernel(context, sandbox, lock.kernel, architecture)
        linux.check_modules(profile.kernel.modules)
        initrd = build_initrd(context, sandbox, linux, inputs.initrd)
        packages = unpack_boot_packages(context, sandbox, lock.boot, architecture)
        parts = BootParts(board, sandbox, packages, linux, initrd, lock.epoch)
        root_tar = root_build.result()
        kubernetes_component = kubernetes_build.result() if kubernetes_build else None
        common = [linux.file_tree, *([kubernetes_component.file_tree] if kubernetes_component else [])]
        contents = RootContents(sandbox, root_tar, tuple(common), lock.epoch)
        base = make_base_layer(cache, contents, inputs.base)
        with cache.scratch("builds") as scratch:
            system, out = scratch / "system", scratch / "out"
            out.mkdir()
            with log.step("assembling the system"):
                assemble_system(
                    system,
                    replace(contents, trees=(*common, *inputs.overlay_folders)),
                    ImageSettings(
                        profile, describe_image(inputs, kubernetes_component), kubernetes_metadata(inputs), inputs.trust
                    ),
                )
            if tree_digest(*inputs.overlay_folders) != inputs.overlays:
                raise Error("the files of the overlays were changed during the build", hint=REPEAT)
            image_accounts.check_image_accounts(profile, system)
            with log.step("erofs and dm-verity"):
                image = make_slot_image(sandbox, base, system, out, SlotIdentity(inputs.key, lock.epoch))
            free = check_headroom(profile.disk, image)
            with log.step("boot images and disk"):
                names = {slot: boot_image_name(boots, slot) for slot in SLOTS}
                for slot in SLOTS:
                    arguments = kernel_command_line(slot, image, board, profile.kernel.arguments)
                    boots.write_boot_image(parts, slot, arguments, system / "usr/lib/os-release", out / names[slot])
                layout = DiskLayout(boots, parts, profile.disk, inputs.key)
                build_disk(layout, image, out / names["a"], out / DISK)
            files = finish_files(sandbox, out, names.values())
            trust = parse_record(TrustRecord, parse_json(inputs.trust[update_trust.TRUST]))
            built = BuiltImage(system, linux, kubernetes_component, files, image.roothash, free)
            manifest = make_manifest(profile, lock, built, key=inputs.key, trust=trust)
            remove_tree(system)
            sources: dict[str, bytes | Path] = {name: out / name for name in manifest.files}
            output.publish_files(target, {**sources, MANIFEST: manifest.to_text().encode()}, marker=MANIFEST)
    return manifest


def image_tools(lock: Lock, context: BuildContext) -> ToolsTree:
    """Return the image tools tree, for the steps after the root file system. It is cached. Raises `Error`."""
    return make_tools_tree(context.cache, lock.image_tools, "image tools tree", folder=context.downloads)


def make_root_archive(inputs: BuildInputs, context: BuildContext) -> Path:
    """Return the root file system as a tar archive. It is cached. Raises `Error`."""
    cache, folder = context.cache, context.downloads
    if path := cache.find_entry("rootfs", inputs.rootfs):
        return path
    sandbox = make_tools_tree(cache, inputs.lock.root_tools, "root tools tree", folder=folder)
    dib = [unpack_wheel(cache, pin, folder) for pin in DISKIMAGE_BUILDER]
    return make_rootfs(context, sandbox, dib, inputs.root, key=inputs.rootfs)


def describe_image(inputs: BuildInputs, component: Component | None) -> ImageDescription:
    """Return what the image says about itself, for the agent."""
    profile = inputs.loaded.profile
    cluster = ImageKubernetes(role=inputs.kubernetes.role)
    if component:
        cluster = replace(cluster, distribution=component.metadata["distribution"], version=component.version)
    return ImageDescription(
        name=profile.name,
        version=profile.version,
        architecture=inputs.architecture,
        board=inputs.board.name,
        boot=inputs.board.boot,
        kubernetes=cluster,
        health=HealthLimits(deadline=profile.health.deadline),
        update=UpdateLimits(**asdict(profile.update)),
        seed=SeedRule(media=profile.seed.media),
    )


def kubernetes_metadata(inputs: BuildInputs) -> dict[str, Any] | None:
    """Return the contents of the image's `kubernetes.json`: the profile's `kubernetes` without keys of the seed.

    None without Kubernetes.
    """
    if inputs.kubernetes.role == "none":
        return None
    part = image_keys(inputs.loaded.profile)["kubernetes"]
    return {**part, **{name: to_json(getattr(inputs.kubernetes, name)) for name in ("distribution", "version")}}


def finish_files(sandbox: ToolsTree, out: Path, boot_names: Iterable[str]) -> dict[str, FileRecord]:
    """Compress the disk image, write its block map, and return size, bytes used on disk and SHA-256 of every file.

    `boot_names` are the names of the slots' boot images. Raises `Error`.
    """
    with log.step("compressing and hashing"), worker_threads() as pool:
        packed = pool.submit(
            sandbox.run_command,
            ["zstd", "-q", "-3", "-T2", "--no-progress", out / DISK, "-o", out / PACKED_DISK],
            [out],
        )
        (out / "disk.bmap").write_text(make_bmap(out / DISK).to_xml())
        names = [DISK, "disk.bmap", "root.erofs", "root.verity", *boot_names]
        sums = dict(zip(names, pool.map(lambda name: file_digest(out / name), names), strict=True))
        packed.result()
        sums[PACKED_DISK] = file_digest(out / PACKED_DISK)
    status = {name: (out / name).stat() for name in sums}
    return {
        name: FileRecord(
            sha256=digest, size=status[name].st_size, used=min(status[name].st_blocks * 512, status[name].st_size)
        )
        for name, digest in sums.items()
    }

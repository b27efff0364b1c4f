"""Resolves a profile: from names of packages and versions to a lock that pins every input."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from osbuild.boot import initrd
from osbuild.boot.kernel import METAPACKAGES
from osbuild.boot.registry import boot_flow
from osbuild.config.board import Board
from osbuild.config.load import LoadedProfile, argument
from osbuild.config.profile import KubernetesSettings
from osbuild.host import log, output
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key
from osbuild.host.paths import display_path
from osbuild.host.run import worker_threads
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import PackageArchive
from osbuild.inputs.download import Unavailable
from osbuild.inputs.lock import AGAIN, FORMAT, Lock, LockedKubernetes, lock_path, read_lock, save_lock
from osbuild.inputs.wheels import DISKIMAGE_BUILDER
from osbuild.kubernetes import go_toolchain
from osbuild.kubernetes.distribution import Pin
from osbuild.kubernetes.registry import DISTRIBUTIONS
from osbuild.rootfs.debian_root import PACKAGES
from osbuild.sandbox import tools_tree
from osbuild.shared.errors import Error


def wanted_packages(loaded: LoadedProfile, distribution: str | None = None) -> list[str]:
    """Return the names of the packages of the profile's root file system, without their dependencies.

    `distribution` is the Kubernetes distribution in the lock, if it differs from the profile's.
    """
    settings = loaded.profile.kubernetes
    cluster_packages = DISTRIBUTIONS[distribution or settings.distribution].packages if settings.role != "none" else ()
    return sorted({*PACKAGES, *cluster_packages, *loaded.profile.packages})


def kernel_flavour(loaded: LoadedProfile, board: Board) -> str:
    """Return the flavour of Debian's kernel: the board's if it has one, else the profile's."""
    return board.kernel or loaded.profile.kernel.flavour


def request_key(loaded: LoadedProfile, board: Board) -> str:
    """Return the content key of everything that is resolved. A lock with another request key is out of date."""
    profile = loaded.profile
    settings = profile.kubernetes
    sha256 = [pins.get(board.architecture) for pins in (settings.sha256, settings.airgap_sha256)]
    chosen = [settings.distribution, settings.version, settings.airgap, settings.if_unavailable]
    pinned = [settings.role != "none", *chosen, sha256]
    return content_key(
        FORMAT,
        SUITE,
        wanted_packages(loaded),
        kernel_flavour(loaded, board),
        board.architecture,
        pinned,
        tools_tree.root_tools(board.architecture),
        tools_tree.IMAGE_TOOLS,
        boot_flow(board).packages(board),
        wheel_pins(loaded),
    )


def wheel_pins(loaded: LoadedProfile) -> dict[str, str]:
    """Return the file names of the wheels that a build uses, each with its SHA-256."""
    pins = {pin.filename: pin.sha256 for pin in DISKIMAGE_BUILDER}
    if loaded.profile.kubernetes.role != "none":
        pin = go_toolchain.toolchain_wheel()
        pins[pin.filename] = pin.sha256
    return pins


def make_lock(loaded: LoadedProfile, board: Board, context: BuildContext, *, without: Sequence[str] = ()) -> Lock:
    """Resolve all inputs with the current archives. The suites `without` may be omitted. Raises `Error`."""
    output.output_path(lock_path(loaded))  # reports a lock that can't be written before resolving, which takes a minute
    architecture, boot_packages = board.architecture, boot_flow(board).packages(board)
    # First, because the distribution determines which packages the root needs.
    pinned = pin_kubernetes(loaded.profile.kubernetes, architecture, context)
    native = PackageArchive(context.cache, Architecture.native())
    archive = PackageArchive(context.cache, architecture)
    with log.step(f"resolving packages for {board.name}"):
        omitted = set(archive.update_index(without))
        if native.architecture != architecture:
            omitted |= set(native.update_index(without))
        meta = METAPACKAGES[architecture, kernel_flavour(loaded, board)]
        with worker_threads() as pool:
            boot = pool.submit(archive.resolve_packages, [meta, *initrd.INITRD_PACKAGES, *boot_packages])
            root_tools = pool.submit(native.resolve_packages, tools_tree.root_tools(architecture))
            image_tools = pool.submit(native.resolve_packages, tools_tree.IMAGE_TOOLS)
            distribution = pinned.distribution if pinned else None
            packages = archive.resolve_packages(wanted_packages(loaded, distribution))
        kernels = [deb for deb in boot.result() if deb.name.startswith("linux-image-") and deb.name != meta]
        initrd_packages = [deb for deb in boot.result() if deb.name in initrd.INITRD_PACKAGES]
    return Lock(
        board.name,
        architecture,
        request_key(loaded, board),
        int(time.time()),
        root_tools.result(),
        image_tools.result(),
        packages,
        kernels[0],
        tuple(initrd_packages),
        tuple(deb for deb in boot.result() if deb.name in boot_packages),
        pinned,
        wheel_pins(loaded),
        tuple(sorted(omitted)),
    )


def pin_kubernetes(
    settings: KubernetesSettings, architecture: Architecture, context: BuildContext
) -> LockedKubernetes | None:
    """Return the distribution to build and its inputs; the profile's substitute if a release cannot be downloaded.

    Later steps use the result in the lock and do not resolve Kubernetes again.
    """
    if settings.role == "none":
        return None
    distribution = DISTRIBUTIONS[settings.distribution]
    requested = reason = None
    try:
        pin = distribution.pin(settings, architecture, context)
    except Unavailable as error:
        if settings.if_unavailable is None:
            raise
        requested = f"{distribution.name} {distribution.requested_version(settings)}"
        reason = " ".join(error.message.split())
        distribution = DISTRIBUTIONS[settings.if_unavailable]
        pin = distribution.pin(replace(settings, version=None, sha256={}, airgap_sha256={}), architecture, context)
    return LockedKubernetes(
        distribution=distribution.name, version=pin.version, files=pin.files, requested=requested, reason=reason
    )


def locked_kubernetes(loaded: LoadedProfile, lock: Lock) -> KubernetesSettings:
    """Return the profile's settings with the lock's pins. Raises `Error` if this program now pins other inputs."""
    pinned, settings = lock.kubernetes, loaded.profile.kubernetes
    hint = AGAIN.format(profile=argument(loaded.files[-1]))
    if pinned is None or pinned.distribution not in DISTRIBUTIONS:
        raise Error("the lock does not pin Kubernetes", hint=hint)
    distribution = DISTRIBUTIONS[pinned.distribution]
    pin = Pin(pinned.version, pinned.files)
    if distribution.current_files(settings, lock.architecture, pin) != pin.files:
        message = f"the lock pins different inputs for Kubernetes {pin.version} than this version of edge-osbuild"
        raise Error(message, hint=hint)
    locked_settings = distribution.locked_settings(settings, lock.architecture, pin)
    return replace(locked_settings, distribution=distribution.name, if_unavailable=None)


def current_lock(loaded: LoadedProfile, board: Board, context: BuildContext) -> Lock:
    """Return the lock to use: the one beside the profile if it matches the profile, else a new one, which is written.

    With `context.locked`, a missing lock or one that does not match is an `Error`.
    """
    old_lock = read_lock(loaded, board.name)
    if old_lock and old_lock.request == request_key(loaded, board):
        return old_lock
    if context.locked:
        if old_lock:
            message = "the lock does not match the profile any more"
        elif lock_path(loaded).exists():
            message = f"the lock has no entry for {board.name}"
        else:
            message = "the lock does not exist"
        hint = f"run `edge-osbuild lock {argument(loaded.files[-1])} --board {board.name}`, or build without --locked"
        raise Error(message, where=display_path(lock_path(loaded)), hint=hint)
    lock = make_lock(loaded, board, context)
    log.note(f"wrote the lock {os.path.relpath(save_lock(loaded, lock))}")
    return lock

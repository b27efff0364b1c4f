"""Resolving a profile: from names of packages and versions to a lock that pins every input."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from osbuild.boot import initrd
from osbuild.boot.kernel import METAPACKAGES
from osbuild.boot.registry import boot_flow
from osbuild.config import upstream_versions
from osbuild.config.board import Board
from osbuild.config.load import LoadedProfile, argument
from osbuild.config.profile import KubernetesSettings
from osbuild.host import log, output
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key, file_digest
from osbuild.host.paths import display_path
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import PackageArchive
from osbuild.inputs.download import Unavailable
from osbuild.inputs.lock import AGAIN, FORMAT, Lock, lock_path, read_lock, save_lock
from osbuild.inputs.wheels import DISKIMAGE_BUILDER
from osbuild.kubernetes import component, go_toolchain, k3s_payload, k3s_release
from osbuild.rootfs.debian_root import PACKAGES
from osbuild.sandbox import tools_tree
from osbuild.shared.errors import Error


def wanted_packages(loaded: LoadedProfile, distribution: str | None = None) -> list[str]:
    """Names of the packages that the profile's root is made of.

    `distribution` is the Kubernetes that the lock pins, if it is not the profile's.
    """
    block = loaded.profile.kubernetes
    more = component.distribution_packages(distribution or block.distribution) if block.role != "none" else ()
    return sorted({*PACKAGES, *more, *loaded.profile.packages})


def kernel_flavour(loaded: LoadedProfile, board: Board) -> str:
    """Which of Debian's kernels: the board's, if it needs a certain one."""
    return board.kernel or loaded.profile.kernel.flavour


def request_key(loaded: LoadedProfile, board: Board) -> str:
    """Content key of what is resolved: a lock made for another request no longer fits."""
    profile = loaded.profile
    block = profile.kubernetes
    sha256 = block.sha256.get(board.architecture)
    pinned = [block.role != "none", block.distribution, block.version, block.if_unavailable, sha256]
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
    """The wheels that a build uses, each with its sha256."""
    found = {pin.filename: pin.sha256 for pin in DISKIMAGE_BUILDER}
    if loaded.profile.kubernetes.role != "none":
        pin = go_toolchain.toolchain_wheel()
        found[pin.filename] = pin.sha256
    return found


def make_lock(loaded: LoadedProfile, board: Board, context: BuildContext, *, without: Sequence[str] = ()) -> Lock:
    """Resolve everything against today's archives, which may lack the suites `without`. Raises `Error`."""
    output.output_path(lock_path(loaded))  # a lock that can't be written is reported now, not after a minute
    architecture, from_board = board.architecture, boot_flow(board).packages(board)
    # First, since the distribution decides which packages the root needs.
    pinned = pin_kubernetes(loaded.profile.kubernetes, architecture, context)
    native = PackageArchive(context.cache, Architecture.native())
    archive = PackageArchive(context.cache, architecture)
    with log.step(f"resolving packages for {board.name}"):
        lacking = set(archive.update_index(without))
        if native.architecture != architecture:
            lacking |= set(native.update_index(without))
        meta = METAPACKAGES[architecture, kernel_flavour(loaded, board)]
        with ThreadPoolExecutor() as pool:
            boot = pool.submit(archive.resolve_packages, [meta, *initrd.INITRD_PACKAGES, *from_board])
            compose_tools = pool.submit(native.resolve_packages, tools_tree.root_tools(architecture))
            finish_tools = pool.submit(native.resolve_packages, tools_tree.IMAGE_TOOLS)
            packages = archive.resolve_packages(wanted_packages(loaded, pinned.get("distribution")))
        image = [deb for deb in boot.result() if deb.name.startswith("linux-image-") and deb.name != meta]
        early = [deb for deb in boot.result() if deb.name in initrd.INITRD_PACKAGES]
    return Lock(
        board.name,
        architecture,
        request_key(loaded, board),
        int(time.time()),
        compose_tools.result(),
        finish_tools.result(),
        packages,
        image[0],
        tuple(early),
        tuple(deb for deb in boot.result() if deb.name in from_board),
        pinned,
        wheel_pins(loaded),
        tuple(sorted(lacking)),
    )


def pin_kubernetes(block: KubernetesSettings, architecture: Architecture, context: BuildContext) -> dict[str, Any]:
    """Which distribution is built, and its inputs. Where K3s can't be had, the profile's way out is taken here."""
    if block.role == "none":
        return {}
    metadata: dict[str, Any] = {}
    if block.distribution == "k3s":
        try:
            chosen = k3s_release.find_release(block, architecture, context.downloads)
            binary = k3s_release.download_binary(chosen, context.cache, context.downloads)
            k3s_payload.check_machine(binary, architecture)
            return {"distribution": "k3s", "version": chosen.version, "files": {chosen.filename: chosen.sha256}}
        except Unavailable as error:
            if block.if_unavailable != "upstream":
                raise
            metadata = {
                "requested": f"k3s {k3s_release.wanted_version(block)}",
                "because": " ".join(error.message.split()),
            }
    release = upstream_versions.find_release(block.version if block.distribution == "upstream" else None)
    files = {"go.mod": file_digest(release.folder / "go.mod"), "go.sum": file_digest(release.folder / "go.sum")}
    return {"distribution": "upstream", "version": release.version, "files": files, **metadata}


def locked_kubernetes(loaded: LoadedProfile, lock: Lock) -> KubernetesSettings:
    """The profile's block as the lock has decided it. Raises `Error` where this program now pins other inputs."""
    pinned = lock.kubernetes
    if not {"distribution", "version", "files"} <= pinned.keys():
        hint = AGAIN.format(profile=argument(loaded.files[-1]))
        raise Error("the lock does not say which Kubernetes is built", hint=hint)
    block, version = loaded.profile.kubernetes, str(pinned["version"])
    sha256 = dict(block.sha256)
    if pinned["distribution"] == "k3s":
        name = k3s_release.binary_name(version, lock.architecture)
        sha256[lock.architecture] = known = (
            k3s_release.known_sha256(block, version, lock.architecture) or pinned["files"][name]
        )
        now = {name: known}
    else:
        sources = upstream_versions.find_release(version).folder
        now = {name: file_digest(sources / name) for name in ("go.mod", "go.sum")}
    if now != pinned["files"]:
        hint = AGAIN.format(profile=argument(loaded.files[-1]))
        raise Error(f"the lock has other inputs of Kubernetes {version} than this edge-osbuild", hint=hint)
    return replace(block, distribution=pinned["distribution"], version=version, sha256=sha256, if_unavailable=None)


def current_lock(loaded: LoadedProfile, board: Board, context: BuildContext) -> Lock:
    """The lock to build by: the one beside the profile if it still fits, else a new one, which is written there.

    With `context.locked`, a missing lock or one that no longer fits is an `Error`.
    """
    found = read_lock(loaded, board.name)
    if found and found.request == request_key(loaded, board):
        return found
    why = "does not fit the profile any more" if found else f"has nothing for {board.name}"
    if context.locked:
        hint = f"run `edge-osbuild lock {argument(loaded.files[-1])} --board {board.name}`, or build without --locked"
        raise Error(f"the lock {why}", where=display_path(lock_path(loaded)), hint=hint)
    lock = make_lock(loaded, board, context)
    log.note(f"locked: {os.path.relpath(save_lock(loaded, lock))}")
    return lock

"""Checks before an installation changes anything. RAUC and the bundle's hook check some of them again."""

from osbuild.agent.boot.loader import count_tries
from osbuild.agent.errors import FREE, Busy, Problem
from osbuild.agent.update import minimum_version, pending
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.rauc import BundleManifest
from osbuild.shared.files import file_system_space
from osbuild.shared.image_versions import is_older

BLOCK = 4096
INDEX = 32  # bytes per block in RAUC's index; RAUC stores the index of the slot and writes a new one
SPARE = 64 * 2**20  # bytes that must stay free in /var; a health check fails below this


def check_ready(context: UpdateContext) -> None:
    """Raise `Problem` if this node cannot be updated, `Busy` if it can be updated later."""
    slot, other, boot, update = context.slot, context.other, context.read_boot(), pending.load_pending(context.system)
    if boot.entry is None or context.boot_loader.next_slot(context.system) is None:
        hint = "check that /efi is mounted and that `edge-agent status` shows the boot entries"
        raise Problem("the boot entries cannot be read", where="/efi", hint=hint)
    if boot.on_trial:
        hint = f"slot {other} is needed for a fallback; wait for the verdict (`edge-agent status`)"
        message = f"slot {slot} is still on trial ({count_tries(boot.entry.left or 0)} left)"
        raise Busy(message, hint=hint)
    if update and update.stage is UpdateStage.switched:
        if update.target == slot:
            raise Busy("the last update is not committed", hint="see `systemctl status edge-update-commit`")
        hint = "reboot to try it, or withdraw it with `edge-agent rollback`"
        raise Busy(f"{update.title} will be booted next", hint=hint)


def check_bundle(context: UpdateContext, source: str, manifest: BundleManifest, compatible: str) -> bool:
    """Raise `Problem` if a bundle does not fit this node. Returns whether it is a downgrade that its signer allows."""
    system, image = context.system, context.system.image()
    if manifest.compatible != compatible:
        hint = "use the bundle for this board and profile"
        raise Problem(
            f"the bundle is for {manifest.compatible}, but this device is {compatible}", where=source, hint=hint
        )
    architecture = manifest.meta.get("architecture")
    if architecture and architecture != image.architecture:
        hint = "use the bundle for this board"
        raise Problem(
            f"the bundle is for {architecture}, but this device is {image.architecture}", where=source, hint=hint
        )
    check_owner(context, source, manifest)
    downgrade = check_version(context, source, manifest)
    kubernetes = manifest.meta.get("kubernetes", "")
    if context.cluster and (refusal := context.cluster.refuse_version(system, kubernetes)):
        raise Problem(refusal, where=source, hint=KUBERNETES_HINT)
    check_space(context, manifest)
    return downgrade


def check_owner(context: UpdateContext, source: str, manifest: BundleManifest) -> None:
    """Raise `Problem` if the new image trusts no root certificate that the running image trusts."""
    # Without a common root, the device could not be updated again: a rotation adds a root before it removes another
    # (docs/keys.md). The signer may allow it. Bundles and images without a list of roots are older than this check.
    roots = context.system.json("/usr/lib/edge-osbuild/trust.json").get("roots") or []
    trusted = {str(root.get("sha256")) for root in roots if isinstance(root, dict)}
    new = set(manifest.meta.get("roots", "").split())
    if not trusted or not new or trusted & new or manifest.meta.get("change-owner") == "yes":
        return
    hint = (
        "build it with `--keys` and the keys of this device's owner, or sign an exception with `bundle --change-owner`"
    )
    raise Problem("the bundle's image trusts none of the roots that this device trusts", where=source, hint=hint)


KUBERNETES_HINT = (
    "update one minor version at a time, without downgrades: https://kubernetes.io/releases/version-skew-policy/"
)


def check_version(context: UpdateContext, source: str, manifest: BundleManifest) -> bool:
    """Whether a bundle is a downgrade that its signer allows. Raises `Problem` for one that is not allowed."""
    running = str(context.system.image().version)
    # Without a minimum version, the running version counts: it is good, because a slot on trial installs nothing.
    minimum = minimum_version.read_minimum(context.system) or running
    if is_older(manifest.version, minimum) is False:
        return False
    permitted = manifest.meta.get("downgrade")
    if permitted == running:
        return True
    hint = f"sign an exception with `edge-osbuild bundle --allow-downgrade-from {running}`"
    if permitted:
        message = f"version {manifest.version} may only replace {permitted}, but {running} is running"
    else:
        message = f"version {manifest.version} is older than the minimum version {minimum} of this device"
    raise Problem(message, where=source, hint=hint)


def is_mostly_new(context: UpdateContext, manifest: BundleManifest) -> bool:
    """Whether most of a bundle is new: it has another Kubernetes, which is most of an image."""
    kubernetes = manifest.meta.get("kubernetes", "")
    return bool(kubernetes) and kubernetes != context.image.get("kubernetes", "")


def free_space(context: UpdateContext) -> int | None:
    """Free bytes of the data partition; None if unknown."""
    space = file_system_space(context.system.path("/var"))
    return None if space is None else space.free


def needed_space(manifest: BundleManifest) -> int:
    """Bytes of the data partition that must be free for an installation, including the reserve `SPARE`."""
    return SPARE + 2 * INDEX * sum(manifest.images.values()) // BLOCK


def has_room_for_bundle(context: UpdateContext, manifest: BundleManifest, downloaded: int) -> bool:
    """Whether the whole bundle fits on the data partition. `downloaded` bytes of it are stored already."""
    free = free_space(context)
    return free is not None and free + downloaded >= needed_space(manifest) + largest_bundle(manifest)


def largest_bundle(manifest: BundleManifest) -> int:
    """The largest possible size of a bundle in bytes: its images with hash trees and metadata."""
    return sum(manifest.images.values()) * 17 // 16 + 16 * 2**20


def check_space(context: UpdateContext, manifest: BundleManifest) -> None:
    """Raise `Problem` if the data partition has too little space for an installation."""
    free, need = free_space(context), needed_space(manifest)
    if free is not None and free < need:
        message = f"{free // 2**20} MiB are free, but {need // 2**20 + 1} MiB are needed"
        raise Problem(message, where="/var", hint=FREE)


def is_installed_already(update: PendingUpdate | None, manifest: BundleManifest, target: str) -> bool:
    """Whether this bundle is installed in slot `target` and only the switch is missing."""
    return bool(
        update and update.kind is UpdateKind.update and update.stage is UpdateStage.installed
        and update.target == target and update.manifest and update.manifest == manifest.hash
    )  # fmt: skip

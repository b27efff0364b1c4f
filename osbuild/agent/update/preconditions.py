"""What must not be installed here, said before anything is written. RAUC and the boot flow check again."""

from osbuild.agent.boot.loader import count_tries
from osbuild.agent.errors import FREE, Problem
from osbuild.agent.update import minimum_version, pending
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.pending import PendingUpdate, UpdateKind, UpdateStage
from osbuild.agent.update.rauc import BundleManifest
from osbuild.shared.files import file_system_space
from osbuild.shared.image_versions import is_older

BLOCK = 4096
INDEX = 32  # bytes of RAUC's index for each block, of which it has one a slot and one it writes
SPARE = 64 * 2**20  # bytes that must stay free below /var: less fails a health check


def check_ready(node: UpdateContext) -> None:
    """Whether this node may be updated at all now. Raises `Problem`."""
    slot, other, boot, update = node.slot, node.other, node.read_boot(), pending.load_pending(node.system)
    if boot.entry is None or node.boot_loader.next_slot(node.system) is None:
        hint = "is /efi mounted, and does `edge-agent status` name the slot's entry?"
        raise Problem("the slots' boot entries can't be read", where="/efi", hint=hint)
    if boot.on_trial:
        hint = f"slot {other} is what it falls back to; wait for the verdict: `edge-agent status`"
        left = f"slot {slot} is still on trial ({count_tries(boot.entry.left or 0)} left)"
        raise Problem(left, hint=hint)
    if update and update.stage is UpdateStage.switched:
        if update.target == slot:
            raise Problem("the last update is not finished", hint="`systemctl status edge-update-commit` says why")
        hint = "reboot to try it, or take it back with `edge-agent rollback`"
        raise Problem(f"{update.title} is to be booted next", hint=hint)


def check_bundle(node: UpdateContext, source: str, manifest: BundleManifest, compatible: str) -> bool:
    """Whether a bundle fits this node; True where its signer allows that it is older. Raises `Problem`."""
    system, image = node.system, node.system.image()
    if manifest.compatible != compatible:
        hint = "take the bundle of this board and profile"
        raise Problem(f"it is for {manifest.compatible}, and this device is {compatible}", where=source, hint=hint)
    wanted = manifest.meta.get("architecture")
    if wanted and wanted != image.get("architecture"):
        hint = "take the bundle of this board"
        raise Problem(f"it is for {wanted}, and this device is {image.get('architecture')}", where=source, hint=hint)
    check_owner(node, source, manifest)
    downgrade = check_version(node, source, manifest)
    kubernetes = manifest.meta.get("kubernetes", "")
    if node.cluster and (refusal := node.cluster.refuse_version(system, kubernetes)):
        raise Problem(refusal, where=source, hint=KUBERNETES_HINT)
    check_space(node, manifest)
    return downgrade


def check_owner(node: UpdateContext, source: str, manifest: BundleManifest) -> None:
    """Raises `Problem` if the new image trusts none of the roots that this one trusts.

    Its next bundle will be signed below one of this device's roots, which a rotation adds before it drops another
    (docs/keys.md): without one in common the device could never be updated again. A signer may permit it. A bundle or
    image that does not say which roots it trusts is older than this check.
    """
    roots = node.system.json("/usr/lib/edge-osbuild/trust.json").get("roots") or []
    known = {str(root.get("sha256")) for root in roots if isinstance(root, dict)}
    new = set(manifest.meta.get("roots", "").split())
    if not known or not new or known & new or manifest.meta.get("change-owner") == "yes":
        return
    hint = "build it with --keys and the keys of this device's owner; --change-owner of `bundle` signs an exception"
    raise Problem("its image would take no updates that this device takes", where=source, hint=hint)


KUBERNETES_HINT = "go by one minor version at a time, and not back: https://kubernetes.io/releases/version-skew-policy/"


def check_version(node: UpdateContext, source: str, manifest: BundleManifest) -> bool:
    """Whether the bundle's signer lets this very version go back below the floor. Raises `Problem` where it may not."""
    running = str(node.system.image().get("version"))
    lowest = (
        minimum_version.read_minimum(node.system) or running
    )  # which was found good: until then nothing is installed
    if is_older(manifest.version, lowest) is False:
        return False
    permitted = manifest.meta.get("downgrade")
    if permitted == running:
        return True
    hint = f"`edge-osbuild bundle --allow-downgrade-from {running}` signs an exception"
    if permitted:
        message = f"version {manifest.version} may replace {permitted} only, and {running} runs here"
    else:
        message = f"version {manifest.version} is older than {lowest}, below which this device does not go"
    raise Problem(message, where=source, hint=hint)


def is_mostly_new(node: UpdateContext, manifest: BundleManifest) -> bool:
    """Whether a bundle is best fetched as a whole: another Kubernetes is most of an image."""
    wanted = manifest.meta.get("kubernetes", "")
    return bool(wanted) and wanted != node.image.get("kubernetes", "")


def free_space(node: UpdateContext) -> int | None:
    """Bytes that are free on the data partition, None where nobody knows."""
    space = file_system_space(node.system.path("/var"))
    return None if space is None else space.free


def needed_space(manifest: BundleManifest) -> int:
    """Bytes of the data partition that an installation needs, those included that must stay free."""
    return SPARE + 2 * INDEX * sum(manifest.images.values()) // BLOCK


def has_room_for_bundle(node: UpdateContext, manifest: BundleManifest, there: int) -> bool:
    """Whether the whole bundle can be kept, of which `there` bytes are there."""
    free = free_space(node)
    return free is not None and free + there >= needed_space(manifest) + largest_bundle(manifest)


def largest_bundle(manifest: BundleManifest) -> int:
    """Bytes that a bundle can have at most: its images, and what says what they are."""
    return sum(manifest.images.values()) * 17 // 16 + 16 * 2**20


def check_space(node: UpdateContext, manifest: BundleManifest) -> None:
    """Whether the data partition has room for what an installation writes there. Raises `Problem`."""
    free, need = free_space(node), needed_space(manifest)
    if free is not None and free < need:
        message = f"{free // 2**20} MiB are free, {need // 2**20 + 1} MiB are needed"
        raise Problem(message, where="/var", hint=FREE)


def is_installed_already(update: PendingUpdate | None, manifest: BundleManifest, target: str) -> bool:
    """Whether that very bundle is in the slot already, from an installation that was not switched to."""
    return bool(
        update and update.kind is UpdateKind.update and update.stage is UpdateStage.installed
        and update.target == target and update.manifest and update.manifest == manifest.hash
    )  # fmt: skip

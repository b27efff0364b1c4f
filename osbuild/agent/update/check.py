"""What must not be installed here, said before anything is written. RAUC and the boot flow check again."""

import os

from osbuild.agent.boot import tries
from osbuild.agent.errors import FREE, Problem
from osbuild.agent.update import floor, pending
from osbuild.agent.update.node import Node
from osbuild.agent.update.pending import Pending
from osbuild.agent.update.rauc import Manifest
from osbuild.agent.update.version import older

BLOCK = 4096
INDEX = 32  # bytes of RAUC's index for each block, of which it has one a slot and one it writes
SPARE = 64 * 2**20  # bytes that must stay free below /var: less fails a health check


def ready(node: Node) -> None:
    """Whether this node may be updated at all now. Raises `Problem`."""
    slot, other, boot, found = node.slot, node.other, node.boot(), pending.load(node.system)
    if boot.entry is None or node.flow.primary(node.system) is None:
        hint = "is /efi mounted, and does `edge-agent status` name the slot's entry?"
        raise Problem("the slots' boot entries can't be read", where="/efi", hint=hint)
    if boot.on_trial:
        hint = f"slot {other} is what it falls back to; wait for the verdict: `edge-agent status`"
        left = f"slot {slot} is still on trial ({tries(boot.entry.left or 0)} left)"
        raise Problem(left, hint=hint)
    if found and found.stage == pending.SWITCHED:
        if found.target == slot:
            raise Problem("the last update is not finished", hint="`systemctl status edge-update-commit` says why")
        hint = "reboot to try it, or take it back with `edge-agent rollback`"
        raise Problem(f"{found.title} is to be booted next", hint=hint)


def bundle(node: Node, source: str, manifest: Manifest, compatible: str) -> bool:
    """Whether a bundle fits this node; True where its signer allows that it is older. Raises `Problem`."""
    system, image = node.system, node.system.image()
    if manifest.compatible != compatible:
        hint = "take the bundle of this board and profile"
        raise Problem(f"it is for {manifest.compatible}, and this device is {compatible}", where=source, hint=hint)
    wanted = manifest.meta.get("architecture")
    if wanted and wanted != image.get("architecture"):
        hint = "take the bundle of this board"
        raise Problem(f"it is for {wanted}, and this device is {image.get('architecture')}", where=source, hint=hint)
    owner(node, source, manifest)
    downgrade = allowed(node, source, manifest)
    kubernetes = manifest.meta.get("kubernetes", "")
    if node.cluster and (refusal := node.cluster.refusal(system, kubernetes)):
        raise Problem(refusal, where=source, hint=KUBERNETES)
    room(node, manifest)
    return downgrade


def owner(node: Node, source: str, manifest: Manifest) -> None:
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


KUBERNETES = "go by one minor version at a time, and not back: https://kubernetes.io/releases/version-skew-policy/"


def allowed(node: Node, source: str, manifest: Manifest) -> bool:
    """Whether the bundle's signer lets this very version go back below the floor. Raises `Problem` where it may not."""
    running = str(node.system.image().get("version"))
    lowest = floor.read(node.system) or running  # which was found good: until then nothing is installed
    if older(manifest.version, lowest) is False:
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


def mostly_new(node: Node, manifest: Manifest) -> bool:
    """Whether a bundle is best fetched as a whole: another Kubernetes is most of an image."""
    wanted = manifest.meta.get("kubernetes", "")
    return bool(wanted) and wanted != node.image.get("kubernetes", "")


def free_space(node: Node) -> int | None:
    """Bytes that are free on the data partition, None where nobody knows."""
    try:
        found = os.statvfs(node.system.path("/var"))
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def needed(manifest: Manifest) -> int:
    """Bytes of the data partition that an installation needs, those included that must stay free."""
    return SPARE + 2 * INDEX * sum(manifest.images.values()) // BLOCK


def room_for_whole(node: Node, manifest: Manifest, there: int) -> bool:
    """Whether the whole bundle can be kept, of which `there` bytes are there."""
    free = free_space(node)
    return free is not None and free + there >= needed(manifest) + limit(manifest)


def limit(manifest: Manifest) -> int:
    """Bytes that a bundle can have at most: its images, and what says what they are."""
    return sum(manifest.images.values()) * 17 // 16 + 16 * 2**20


def room(node: Node, manifest: Manifest) -> None:
    """Whether the data partition has room for what an installation writes there. Raises `Problem`."""
    free, need = free_space(node), needed(manifest)
    if free is not None and free < need:
        message = f"{free // 2**20} MiB are free, {need // 2**20 + 1} MiB are needed"
        raise Problem(message, where="/var", hint=FREE)


def fits(found: Pending | None, manifest: Manifest, target: str) -> bool:
    """Whether that very bundle is in the slot already, from an installation that was not switched to."""
    return bool(
        found and found.kind == "update" and found.stage == pending.INSTALLED and found.target == target
        and found.manifest and found.manifest == manifest.hash
    )  # fmt: skip

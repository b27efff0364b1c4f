"""Checks whose updates the image in a bundle accepts: a device that installs it must accept the next bundle too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osbuild.bundle.source import AGAIN, BundleSource
from osbuild.host.run import CommandError
from osbuild.image.update_trust import TRUST
from osbuild.keys.certificate import fingerprint
from osbuild.keys.key_folder import KeyFolder
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error
from osbuild.shared.json_text import parse_json

INSIDE = "/run/root.erofs"  # its path in the sandbox
HAND_OVER = "to transfer devices to another owner, pass --change-owner"


def check_trust(source: BundleSource, keys: KeyFolder) -> None:
    """Raise `Error` if devices that install this image would refuse further bundles signed with `keys`.

    An image that trusts development keys can't be signed with other keys, not even with `change_owner`.
    """
    trusted, where = source.manifest.trusted_roots, str(source.folder)
    if not trusted:
        raise Error("manifest.json does not say whose updates the image accepts", where=where, hint=AGAIN)
    signer = keys.find_signer()
    if fingerprint(keys.certificate(signer.root)) in trusted:
        return
    trust, rebuild = source.manifest.trust, f"`edge-osbuild build … --keys {keys.folder}`, then make the bundle again"
    if trust.development and not keys.development:
        message = (
            f"this image trusts DEVELOPMENT keys only, but {signer.name} of {keys.owner} signs the bundle: devices "
            f"that install it would refuse further updates of {keys.owner}"
        )
        raise Error(message, where=where, hint=f"build the image for the keys of the devices: {rebuild}")
    if not source.change_owner:
        message = (
            f"this image trusts {trust.owner}, but {signer.name} of {keys.owner}, issued by {signer.root}, signs the "
            f"bundle: devices that install it would refuse further updates of {keys.owner}"
        )
        raise Error(message, where=where, hint=f"{rebuild}; {HAND_OVER}")


def check_image(source: BundleSource, tools: ToolsTree) -> None:
    """Raises `Error` if the image trusts others than the manifest.json of its build says: it may have been edited."""
    image, said = read_image_trust(source.root, tools), source.manifest.trust
    trusted = sorted(fingerprints(image))
    if bool(image.get("development")) != bool(said.development) or trusted != sorted(source.manifest.trusted_roots):
        marked = " (DEVELOPMENT keys)" if image.get("development") else ""
        message = (
            f"manifest.json says that the image accepts updates of {said.owner}, "
            f"but the image accepts those of {image.get('owner')}{marked}"
        )
        raise Error(message, where=str(source.folder), hint=AGAIN)


def read_image_trust(root: Path, tools: ToolsTree) -> Mapping[str, Any]:
    """Whom the root file system of an image trusts, as it says itself. Raises `Error`."""
    try:
        text = tools.run_command(["dump.erofs", "--cat", f"--path=/{TRUST}", INSIDE], read_only_binds=[(root, INSIDE)])
        found = parse_json(text)
        fingerprints(found)
    except (CommandError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = "the image does not say whose updates it accepts"
        raise Error(message, where=str(root), hint=AGAIN) from error
    return dict(found)


def fingerprints(trust: Mapping[str, Any]) -> list[str]:
    """Those of the roots in /usr/lib/edge-osbuild/trust.json of an image."""
    return [str(root["sha256"]) for root in trust["roots"]]

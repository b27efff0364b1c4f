"""Whose updates the image in a bundle takes: a device that installs it must be able to take the next one."""

from osbuild.bundle.source import AGAIN, BundleSource
from osbuild.keys.certificate import fingerprint
from osbuild.keys.key_folder import KeyFolder
from osbuild.shared.errors import Error

HAND_OVER = "to hand devices over to another owner on purpose, give --change-owner"


def check_trust(source: BundleSource, keys: KeyFolder) -> None:
    """Raises `Error` if devices that install this image would take no further bundle that `keys` sign.

    An image that trusts development keys never gets a signature of other keys: devices in the field would then take
    updates of anybody who has them, and none of their owner.
    """
    trusted, where = source.manifest.trusted_roots, str(source.folder)
    if not trusted:
        raise Error("its manifest.json does not say whose updates the image takes", where=where, hint=AGAIN)
    signer = keys.find_signer()
    if fingerprint(keys.certificate(signer.root)) in trusted:
        return
    trust, rebuild = source.manifest.trust, f"`edge-osbuild build … --keys {keys.folder}`, then make the bundle"
    if trust.development and not keys.development:
        message = (
            f"this image trusts DEVELOPMENT keys only, and {signer.name} of {keys.owner} is to sign it: devices that "
            f"install it would take no more updates of {keys.owner}"
        )
        raise Error(message, where=where, hint=f"build it for the keys of the devices: {rebuild}")
    if not source.change_owner:
        message = (
            f"this image does not trust {signer.root} of {keys.owner}, which is to sign it, but {trust.owner}: "
            f"devices that install it would take no more updates of {keys.owner}"
        )
        raise Error(message, where=where, hint=f"{rebuild}; {HAND_OVER}")

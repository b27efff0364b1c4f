"""Checks whose updates the image in a bundle accepts: a device that installs it must accept the next bundle too."""

from osbuild.bundle.source import AGAIN, BundleSource
from osbuild.keys.certificate import fingerprint
from osbuild.keys.key_folder import KeyFolder
from osbuild.shared.errors import Error

HAND_OVER = "to transfer devices to another owner, pass --change-owner"


def check_trust(source: BundleSource, keys: KeyFolder) -> None:
    """Raise `Error` if devices that install this image would refuse further bundles signed with `keys`.

    An image that trusts development keys can't be signed with other keys, not even with `change_owner`.
    """
    trusted, where = source.manifest.trusted_roots, str(source.folder)
    if not trusted:
        raise Error("its manifest.json does not say whose updates the image accepts", where=where, hint=AGAIN)
    signer = keys.find_signer()
    if fingerprint(keys.certificate(signer.root)) in trusted:
        return
    trust, rebuild = source.manifest.trust, f"`edge-osbuild build … --keys {keys.folder}`, then make the bundle again"
    if trust.development and not keys.development:
        message = (
            f"this image trusts DEVELOPMENT keys only, but {signer.name} of {keys.owner} signs the bundle: devices "
            f"that install it would refuse further updates of {keys.owner}"
        )
        raise Error(message, where=where, hint=f"build it for the keys of the devices: {rebuild}")
    if not source.change_owner:
        message = (
            f"this image trusts {trust.owner}, but {signer.name} of {keys.owner}, issued by {signer.root}, signs the "
            f"bundle: devices that install it would refuse further updates of {keys.owner}"
        )
        raise Error(message, where=where, hint=f"{rebuild}; {HAND_OVER}")

"""The files of an image with which a device checks bundles and reports the roots that it trusts."""

import json
from pathlib import Path

from osbuild.image.rauc_config import CONFIG, KEYRING_FILE, render_system_conf
from osbuild.keys.certificate import fingerprint
from osbuild.keys.key_folder import KeyFolder

TRUST = Path("usr/lib/edge-osbuild/trust.json")
# Printed before a login by agetty(8) and after it by pam_motd(8).
NOTICES = (Path("usr/lib/issue.d/edge-osbuild-keys.issue"), Path("usr/lib/motd.d/edge-osbuild-keys"))
NOTICE = "This image accepts updates signed with DEVELOPMENT keys: it is not for devices in the field.\n"


def trust_files(compatible: str, keys: KeyFolder, *, boot: str) -> dict[Path, bytes]:
    """Return path -> contents of RAUC's configuration, the keyring, and a JSON summary of it for the edge agent.

    `boot` is the mount point of the ESP. Development keys add a notice for each login. The result is reproducible.
    """
    roots = [
        {
            "name": root.name,
            "sha256": fingerprint(keys.certificate(root.name)),
            "until": keys.certificate(root.name).not_valid_after_utc.isoformat(),
        }
        for root in keys.roots
        if not root.removed
    ]
    trust = {"owner": keys.owner, "development": keys.development, "roots": roots, "revoked": sorted(keys.revoked())}
    files = {
        CONFIG: render_system_conf(compatible, boot=boot).encode(),
        KEYRING_FILE: keys.keyring(),
        TRUST: (json.dumps(trust, indent=1) + "\n").encode(),
    }
    return files | {path: NOTICE.encode() for path in NOTICES if keys.development}

"""The files of an image by which a device checks bundles, and says whom it trusts."""

import json
from pathlib import Path

from osbuild.image.rauc_config import CONFIG, KEYRING_FILE, render_system_conf
from osbuild.keys.certificate import fingerprint
from osbuild.keys.key_folder import KeyFolder

TRUST = Path("usr/lib/edge-osbuild/trust.json")
# Shown before (agetty(8)) and after (pam_motd(8)) a login.
NOTICES = (Path("usr/lib/issue.d/edge-osbuild-keys.issue"), Path("usr/lib/motd.d/edge-osbuild-keys"))
NOTICE = "This image takes updates signed with DEVELOPMENT keys: it is not for devices in the field.\n"


def trust_files(compatible: str, keys: KeyFolder, *, boot: str) -> dict[Path, bytes]:
    """Path in the image -> contents: RAUC's configuration, keyring, and the same in JSON for the agent.

    `boot` is where the boot partition is mounted. With development keys there is a notice for each login. The same
    keys give the same bytes.
    """
    roots = [
        {
            "name": root.name,
            "sha256": fingerprint(keys.certificate(root.name)),
            "until": keys.certificate(root.name).not_valid_after_utc.isoformat(),
        }
        for root in keys.roots
        if not root.dropped
    ]
    trust = {"owner": keys.owner, "development": keys.development, "roots": roots, "revoked": sorted(keys.revoked())}
    found = {
        CONFIG: render_system_conf(compatible, boot=boot).encode(),
        KEYRING_FILE: keys.keyring(),
        TRUST: (json.dumps(trust, indent=1) + "\n").encode(),
    }
    return found | {path: NOTICE.encode() for path in NOTICES if keys.development}

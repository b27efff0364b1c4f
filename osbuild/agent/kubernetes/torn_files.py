"""Files of Kubernetes that a power cut has torn, removed before it starts so that it makes them again.

K3s and the kubelet write keys, certificates and passwords without fsync(2), and at their next start trust every file
that exists. What is missing they make again, or K3s takes it from its datastore (k3s `pkg/cluster/bootstrap.go` and
`pkg/daemons/control/deps`; client-go `util/cert`, `CanReadCertAndKey`).
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

from osbuild.agent.kubernetes.certificates import REGENERATE
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.shared.files import sync_path

K3S_FILES = (
    "server/tls/**/*", "server/cred/**/*", "server/etc/*", "server/token", "server/agent-token",
    "agent/*.crt", "agent/*.key", "agent/*.kubeconfig", "agent/etc/*",
)  # fmt: skip
KUBELET_FILES = ("pki/*",)
PEM = (".crt", ".key", ".pem")


def remove_torn_files(paths: Paths) -> None:
    """Remove what a power cut has emptied or cut short. Kubernetes must not run. Raises `OSError`."""
    torn = {path: why for path in credential_files(paths) if (why := explain_torn(path))}
    tls = paths.data / "server/tls"
    if any(path.parent == tls and "-ca." in path.name for path in torn):
        # The certificate that K3s listens with is not issued again just because its authority is.
        write_text(tls / REGENERATE, "", 0o600)
    for path in torn:
        path.unlink()
    for folder in sorted({path.parent for path in torn}):
        sync_path(folder)
        names = ", ".join(f"{path.name} ({why})" for path, why in torn.items() if path.parent == folder)
        print(f"{folder}: a power cut has torn these files; removed, so that they are made again: {names}")


def credential_files(paths: Paths) -> Iterator[Path]:
    """The ordinary files in which K3s and the kubelet keep keys, certificates and passwords."""
    k3s = {path for pattern in K3S_FILES for path in paths.data.glob(pattern)}
    kubelet = {path for pattern in KUBELET_FILES for path in paths.kubelet.glob(pattern)}
    for path in sorted(k3s | kubelet):
        if stat.S_ISREG(path.lstat().st_mode) and path.name != REGENERATE:  # empty on purpose
            yield path


def explain_torn(path: Path) -> str:
    """Why a file can't be whole; empty if it may be. Raises `OSError`."""
    content = path.read_bytes()
    if not content.strip(b"\0 \t\r\n"):
        return "zeros" if content else "empty"
    last_line = content.strip().splitlines()[-1]
    if path.suffix in PEM and not (last_line.startswith(b"-----END ") and last_line.endswith(b"-----")):
        return "without the end of its last certificate or key"
    if path.suffix == ".json":
        try:
            json.loads(content)
        except ValueError:
            return "not JSON"
    return ""

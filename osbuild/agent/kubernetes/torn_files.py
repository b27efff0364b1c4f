"""Removes files of Kubernetes that a power cut has torn, so that Kubernetes creates them again.

K3s and the kubelet write keys, certificates and passwords without fsync(2), and use every existing file when they
start. They create missing files again, or K3s restores them from its datastore (k3s `pkg/cluster/bootstrap.go` and
`pkg/daemons/control/deps`; client-go `util/cert`, `CanReadCertAndKey`).
"""

import stat
from collections.abc import Iterator
from pathlib import Path

from osbuild.agent.kubernetes.certificates import REGENERATE
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.shared.files import sync_path
from osbuild.shared.json_text import parse_json

K3S_FILES = (
    "server/tls/**/*", "server/cred/**/*", "server/etc/*", "server/token", "server/agent-token",
    "agent/*.crt", "agent/*.key", "agent/*.kubeconfig", "agent/etc/*",
)  # fmt: skip
KUBELET_FILES = ("pki/*",)
PEM = (".crt", ".key", ".pem")


def remove_torn_files(paths: Paths) -> None:
    """Remove empty and truncated files. Kubernetes must be stopped. Raises `OSError`."""
    torn = {path: reason for path in credential_files(paths) if (reason := explain_torn(path))}
    tls = paths.data / "server/tls"
    if any(path.parent == tls and "-ca." in path.name for path in torn):
        # K3s does not issue the certificate of its port again only because its authority is new.
        write_text(tls / REGENERATE, "", 0o600)
    for path in torn:
        path.unlink()
    for folder in sorted({path.parent for path in torn}):
        sync_path(folder)
        names = ", ".join(f"{path.name} ({reason})" for path, reason in torn.items() if path.parent == folder)
        print(f"{folder}: removed files that a power cut has damaged; Kubernetes creates them again: {names}")


def credential_files(paths: Paths) -> Iterator[Path]:
    """The regular files in which K3s and the kubelet store keys, certificates and passwords."""
    k3s = {path for pattern in K3S_FILES for path in paths.data.glob(pattern)}
    kubelet = {path for pattern in KUBELET_FILES for path in paths.kubelet.glob(pattern)}
    for path in sorted(k3s | kubelet):
        if stat.S_ISREG(path.lstat().st_mode) and path.name != REGENERATE:  # this file is always empty
            yield path


def explain_torn(path: Path) -> str:
    """Why a file is torn; empty if it is not. Raises `OSError`."""
    content = path.read_bytes()
    if not content.strip(b"\0 \t\r\n"):
        return "only zeros" if content else "empty"
    last_line = content.strip().splitlines()[-1]
    if path.suffix in PEM and not (last_line.startswith(b"-----END ") and last_line.endswith(b"-----")):
        return "the end of the last certificate or key is missing"
    if path.suffix == ".json":
        try:
            parse_json(content)
        except ValueError:
            return "not JSON"
    return ""

"""When the first certificate of this node in its cluster expires, stored for programs that may not read them."""

from collections.abc import Iterator
from pathlib import Path

from osbuild.agent.certificate_end import KUBERNETES_FILE, format_time
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.certificates import Certificate, parse_certificate, read_certificates
from osbuild.agent.kubernetes.paths import Paths, is_k3s
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.shared.files import write_file


def store_first_expiry(root: Path) -> None:
    """Write when the first of the certificates expires (ISO 8601, UTC). A failure is printed. For root."""
    try:
        if load_settings(root).role == "none":
            return
        first = min((certificate.end for certificate in node_certificates(root)), default=None)
        if first is not None:
            write_file(root / KUBERNETES_FILE.lstrip("/"), format_time(first).encode(), 0o644)
    except (Problem, OSError) as error:
        print(f"the end of the cluster's certificates is not known: {error}")


def node_certificates(root: Path) -> Iterator[Certificate]:
    """Yield the certificates of this node and of the authorities. Raises `OSError`."""
    paths = Paths(root)
    if is_k3s(root):
        yield from read_certificates(paths)
        return
    credentials = [paths.credentials] if paths.credentials.exists() else []
    for path in [*sorted(paths.pki.glob("*.crt")), *credentials]:
        if certificate := parse_certificate(path, path.read_bytes()):
            yield certificate

"""When certificates of this device expire."""

import ssl
import time
from pathlib import Path

from osbuild.agent.command import CommandNotFinished, run_command

KUBERNETES_FILE = "/run/edge-osbuild/kubernetes-certificate-end"
"""when the first certificate of this node in its cluster expires: written by root, readable for all"""
TIMEOUT = 60.0  # seconds


def certificate_end(certificate: Path) -> str | None:
    """Return when a certificate expires (ISO 8601, UTC); None if there is none, or it cannot be read."""
    if not certificate.exists():
        return None
    try:
        result = run_command(["openssl", "x509", "-in", certificate, "-noout", "-enddate"], timeout=TIMEOUT)
        return format_time(ssl.cert_time_to_seconds(result.stdout.strip().removeprefix("notAfter=")))
    except (CommandNotFinished, ValueError):
        return None


def format_time(seconds: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

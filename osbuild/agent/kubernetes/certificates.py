"""K3s' certificates: when K3s must restart to renew them, and which ones are invalid because of a wrong clock.

When K3s starts, it fetches the certificates in `agent/` from its server, which may be itself. In `server/tls/` it
issues missing certificates with the existing key, and renews those that expire soon. It never checks the start of the
validity period, and never renews certificates of authorities. No certificate is valid earlier than that of its
authority (rancher/dynamiclistener, `NewSignedCert`).
"""

import base64
import secrets
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.agent.system import System
from osbuild.shared.files import sync_path
from osbuild.shared.json_text import parse_json
from osbuild.shared.node_settings import NodeSettings

# K3s renews certificates only when it starts, and only those with less than 120 days left (90 in older releases).
# K3s is restarted each time the remaining days fall below one of these limits; the later limits are retries.
RENEWALS = (120, 90, 30, 7, 1)
SOON = 300  # seconds; a certificate that becomes valid within this time is not a problem
AUTHORITY_DAYS = 3650  # as K3s does it
REGENERATE = "dynamic-cert-regenerate"  # `k3s certificate rotate` creates this file to request a new dynamic-cert.json


@dataclass(frozen=True)
class Certificate:
    """The first certificate of a file. `begin` and `end` are in seconds since 1970. `alone`: the file has no other."""

    path: Path
    begin: float
    end: float
    self_signed: bool
    alone: bool

    @property
    def is_authority(self) -> bool:
        return "-ca." in self.path.name

    @property
    def can_be_issued(self) -> bool:
        """Whether this is a self-signed authority whose key is available."""
        return self.self_signed and self.alone and self.path.with_suffix(".key").exists()

    def problem(self, now: float) -> str:
        """Why the certificate is not valid at `now` and K3s will not renew it; empty if there is no such reason."""
        if self.begin > now + SOON:
            return f"not valid before {time.strftime('%Y-%m-%d', time.gmtime(self.begin))}"
        if self.is_authority and self.end < now:
            return f"expired on {time.strftime('%Y-%m-%d', time.gmtime(self.end))}"
        return ""


def read_certificates(paths: Paths) -> Iterator[Certificate]:
    """All certificates of K3s. Those that cannot be read are reported and skipped."""
    for path in sorted([*paths.data.glob("server/tls/**/*.crt"), *paths.data.glob("agent/*.crt")]):
        if ".nochain." not in path.name and (
            certificate := parse_certificate(path, path.read_bytes())
        ):  # written at each start
            yield certificate
    dynamic = paths.data / "server/tls/dynamic-cert.json"
    if dynamic.exists() and not dynamic.with_name(REGENERATE).exists():
        try:
            content = base64.b64decode(parse_json(dynamic.read_text())["data"]["tls.crt"])
        except (KeyError, TypeError, ValueError) as error:
            print(f"{dynamic}: {type(error).__name__}: {error}")
            return
        if certificate := parse_certificate(dynamic, content):
            yield certificate


def parse_certificate(path: Path, content: bytes) -> Certificate | None:
    """The first certificate in the PEM data `content`. Prints an error and returns None if there is none."""
    try:
        fields = read_fields(content)
        begin, end = (float(ssl.cert_time_to_seconds(fields[name])) for name in ("notBefore", "notAfter"))
    except (ValueError, KeyError) as error:
        print(f"{path}: {error}")
        return None
    return Certificate(path, begin, end, fields["subject"] == fields["issuer"], content.count(b"-BEGIN CERT") == 1)


@lru_cache(maxsize=64)
def read_fields(content: bytes) -> dict[str, str]:
    """Name -> value of the dates and names of a certificate. Raises `ValueError` with the error of openssl.

    Results are kept, because openssl takes 20 ms to start, and certificates are often compared with the clock.
    """
    lines = (
        run_openssl("-noout", "-startdate", "-enddate", "-subject", "-issuer", content=content).decode().splitlines()
    )
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def run_openssl(*arguments: str, content: bytes) -> bytes:
    """The output of openssl-x509(1) for a certificate. Raises `ValueError` with its error."""
    result = subprocess.run(["openssl", "x509", *arguments], input=content, capture_output=True, check=False)
    if result.returncode:
        raise ValueError(result.stderr.decode(errors="replace").strip().partition("\n")[0] or "openssl failed")
    return result.stdout


def renewal_due(certificates: Iterable[Certificate], paths: Paths) -> bool:
    """Whether a certificate has passed another limit of `RENEWALS` since the last call in this boot."""
    counter, now = paths.run / "k3s-renewals", time.time()
    remaining = min(
        (certificate.end - now for certificate in certificates if not certificate.is_authority), default=float("inf")
    )
    passed = sum(remaining < days * 86400 for days in RENEWALS)
    before = int(counter.read_text()) if counter.exists() else 0
    write_text(counter, str(passed))
    return passed > before


def find_misdated(certificates: Iterable[Certificate], settings: NodeSettings, paths: Paths) -> dict[Certificate, str]:
    """Certificate -> reason, for certificates with wrong dates that `reissue_certificates` can issue again.

    If this includes an authority that this node cannot issue again, that is reported, and the result is empty: other
    certificates would get wrong dates again.
    """
    now = time.time()
    misdated = {certificate: reason for certificate in certificates if (reason := certificate.problem(now))}
    is_own = has_own_datastore(settings, paths)
    for certificate, reason in misdated.items():
        if (
            certificate.is_authority
            and paths.data / "server/tls" in certificate.path.parents
            and not (is_own and certificate.can_be_issued)
        ):
            print(f"{certificate.path}: {reason}, and this node cannot issue it again; see `k3s certificate rotate-ca`")
            return {}
    return misdated


def has_own_datastore(settings: NodeSettings, paths: Paths) -> bool:
    """Whether the datastore is K3s' own SQLite, or will be. Other datastores are shared with other server nodes."""
    shared = {"datastore-endpoint", "cluster-init"} & settings.config.keys()
    return not (shared or settings.server or (paths.data / "server/db/etcd").exists())


def reissue_certificates(misdated: Mapping[Certificate, str], paths: Paths) -> None:
    """Issue authorities again with the same key and name, and let K3s issue the other certificates when it starts.

    Certificates issued by the authorities remain valid. K3s must be stopped. Raises `OSError` and `Problem`. After a
    power cut, the next call finishes the work.
    """
    from osbuild.agent.kubernetes import datastore  # imports take time at boot, and this is rare

    local = {
        certificate: reason
        for certificate, reason in misdated.items()
        if paths.data / "server/tls" in certificate.path.parents
    }
    authorities = [certificate for certificate in local if certificate.is_authority]
    try:
        issued = {certificate: issue_again(certificate.path) for certificate in authorities}
    except ValueError as error:
        print(f"authorities cannot be issued again: {error}")
        return
    if authorities and (database := datastore.find_database(System(paths.root))):
        datastore.delete_objects(database, datastore.BOOTSTRAP)
    for certificate, content in issued.items():
        write_text(certificate.path, content)
    for certificate in local.keys() - issued.keys():
        if certificate.path.suffix == ".json":
            write_text(certificate.path.with_name(REGENERATE), "", 0o600)
        else:
            certificate.path.unlink(missing_ok=True)
    for certificate, reason in local.items():
        print(f"{certificate.path}: {reason}: issued again")
        sync_path(certificate.path.parent)


def issue_again(path: Path) -> str:
    """Issue the self-signed certificate at `path` again, valid from now on. Raises `ValueError` and `OSError`."""
    arguments = ["-signkey", str(path.with_suffix(".key")), "-days", str(AUTHORITY_DAYS), "-sha256"]
    arguments += ["-set_serial", f"0x{secrets.token_hex(15)}"]
    return run_openssl(*arguments, content=path.read_bytes()).decode()

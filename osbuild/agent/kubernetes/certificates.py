"""K3s' certificates: when it must start again to renew them, and which of them a wrong clock has made useless.

At a start, K3s gets all those in `agent/` from its server, which may be itself. In `server/tls/` it issues those that
are missing, with the key that is there, and renews those that end soon. It never looks at the day from which one is
valid, and never renews an authority's. None is valid before its authority's (rancher/dynamiclistener, `NewSignedCert`).
"""

import base64
import json
import secrets
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.agent.system import System
from osbuild.shared.files import sync_path
from osbuild.shared.node_settings import NodeSettings

# K3s renews its certificates only when it starts, and only those with less than 120 days left (90 in older releases).
# Each of these limits is a reason to start it again, in days left; the later ones for what did not help before.
RENEWALS = (120, 90, 30, 7, 1)
SOON = 300  # seconds until a certificate is valid by itself
AUTHORITY_DAYS = 3650  # as K3s' own
REGENERATE = "dynamic-cert-regenerate"  # a file with which `k3s certificate rotate` asks for a new dynamic-cert.json


@dataclass(frozen=True)
class Certificate:
    """A file, by its first certificate; `begin` and `end` are in seconds since 1970. `alone`: there is no other."""

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
        """Whether all is there for an authority to sign itself."""
        return self.self_signed and self.alone and self.path.with_suffix(".key").exists()

    def problem(self, now: float) -> str:
        """Why the clock makes it useless to K3s, which will do nothing about it; empty if it does not."""
        if self.begin > now + SOON:
            return f"it is not valid before {time.strftime('%Y-%m-%d', time.gmtime(self.begin))}"
        if self.is_authority and self.end < now:
            return f"it has expired on {time.strftime('%Y-%m-%d', time.gmtime(self.end))}"
        return ""


def certificates(paths: Paths) -> Iterator[Certificate]:
    """All that K3s keeps. What can't be read is reported, and left out."""
    for path in sorted([*paths.data.glob("server/tls/**/*.crt"), *paths.data.glob("agent/*.crt")]):
        if ".nochain." not in path.name and (found := parse(path, path.read_bytes())):  # those K3s writes at each start
            yield found
    dynamic = paths.data / "server/tls/dynamic-cert.json"
    if dynamic.exists() and not dynamic.with_name(REGENERATE).exists():
        try:
            content = base64.b64decode(json.loads(dynamic.read_text())["data"]["tls.crt"])
        except (KeyError, TypeError, ValueError) as error:
            print(f"{dynamic}: {type(error).__name__}: {error}")
            return
        if found := parse(dynamic, content):
            yield found


def parse(path: Path, content: bytes) -> Certificate | None:
    """The certificate in `content`, which is in PEM; None, and a line of output, if it has none."""
    try:
        lines = (
            openssl("-noout", "-startdate", "-enddate", "-subject", "-issuer", content=content).decode().splitlines()
        )
        fields = {name: value for name, _, value in (line.partition("=") for line in lines)}
        begin, end = (float(ssl.cert_time_to_seconds(fields[name])) for name in ("notBefore", "notAfter"))
    except (ValueError, KeyError) as error:
        print(f"{path}: {error}")
        return None
    return Certificate(path, begin, end, fields["subject"] == fields["issuer"], content.count(b"-BEGIN CERT") == 1)


def openssl(*arguments: str, content: bytes) -> bytes:
    """What openssl-x509(1) makes of a certificate. Raises `ValueError` with what it says."""
    done = subprocess.run(["openssl", "x509", *arguments], input=content, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.decode(errors="replace").strip().partition("\n")[0] or "openssl failed")
    return done.stdout


def renewal_due(found: Iterable[Certificate], paths: Paths) -> bool:
    """Whether a certificate has passed one of the limits in `RENEWALS` since this was asked last in this boot."""
    stamp, now = paths.run / "k3s-renewals", time.time()
    left = min((one.end - now for one in found if not one.is_authority), default=float("inf"))
    passed = sum(left < days * 86400 for days in RENEWALS)
    before = int(stamp.read_text()) if stamp.exists() else 0
    write_text(stamp, str(passed))
    return passed > before


def useless(found: Iterable[Certificate], settings: NodeSettings, paths: Paths) -> dict[Certificate, str]:
    """The certificates that a wrong clock has dated and that `repair` can have issued again, and why each must be.

    If one of this server's authorities is not its own to issue again, it is reported, and there are none: what K3s
    issues by it would be dated as before.
    """
    now = time.time()
    wrong = {one: reason for one in found if (reason := one.problem(now))}
    own = has_own_datastore(settings, paths)
    for one, reason in wrong.items():
        if one.is_authority and paths.data / "server/tls" in one.path.parents and not (own and one.can_be_issued):
            print(f"{one.path}: {reason}, and this node can't issue it again: see `k3s certificate rotate-ca`")
            return {}
    return wrong


def has_own_datastore(settings: NodeSettings, paths: Paths) -> bool:
    """Whether this server's datastore is K3s' own SQLite, or is going to be. Other servers share any other one."""
    shared = {"datastore-endpoint", "cluster-init"} & settings.config.keys()
    return not (shared or settings.server or (paths.data / "server/db/etcd").exists())


def repair(wrong: Mapping[Certificate, str], paths: Paths) -> None:
    """Issue a server's authorities again, with the same key and name, and have K3s issue the rest when it starts.

    What the authorities have issued stays valid. K3s must not run. Raises `OSError` and `Problem`. After a power cut
    it is done again: the files tell what is left to do.
    """
    from osbuild.agent.kubernetes import datastore  # imports cost time at boot, and this is rare

    local = {one: reason for one, reason in wrong.items() if paths.data / "server/tls" in one.path.parents}
    authorities = [one for one in local if one.is_authority]
    try:
        issued = {one: issue(one.path) for one in authorities}
    except ValueError as error:
        print(f"authorities can't be issued again: {error}")
        return
    if authorities and (database := datastore.find_database(System(paths.root))):
        datastore.delete(database, datastore.BOOTSTRAP)
    for one, content in issued.items():
        write_text(one.path, content)
    for one in local.keys() - issued.keys():
        if one.path.suffix == ".json":
            write_text(one.path.with_name(REGENERATE), "", 0o600)
        else:
            one.path.unlink(missing_ok=True)
    for one, reason in local.items():
        print(f"{one.path}: {reason}: issued again")
        sync_path(one.path.parent)


def issue(path: Path) -> str:
    """A certificate like the one at `path`, valid from now on, by its own key. Raises `ValueError` and `OSError`."""
    arguments = ["-signkey", str(path.with_suffix(".key")), "-days", str(AUTHORITY_DAYS), "-sha256"]
    arguments += ["-set_serial", f"0x{secrets.token_hex(15)}"]
    return openssl(*arguments, content=path.read_bytes()).decode()

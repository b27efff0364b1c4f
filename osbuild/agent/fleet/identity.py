"""Who this device is for its update server: a key that is made here, and a certificate that the server has issued."""

import hashlib
import json
import os
import pwd
import ssl
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from osbuild.agent import state_files
from osbuild.agent.command import CommandNotFinished, run_command
from osbuild.agent.errors import Problem
from osbuild.agent.fleet.action_record import FOLDER
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.http import ServerToken, TlsFiles, open_request
from osbuild.agent.system import System
from osbuild.shared.files import make_folder, read_file, sync_path, write_file
from osbuild.shared.http_deadline import INVALID_ANSWERS

COPIES = "/run/edge-fleet-outcome"
USER = "edge-fleet"
AUTHORITY, CERTIFICATE, KEY = "server-ca.crt", "device.crt", "device.key"
NEXT = ".next"  # suffix of a key and a certificate that replace those in use
ENROLMENT = f"{FOLDER}/enrolment.json"
ENROL, RENEW = "/enrol/v1", "/enrol/v1/renew"
PATIENCE = 60.0  # seconds without an answer
OPENSSL_TIMEOUT = 60.0  # seconds; a key takes long on a slow processor
RENEW_BEFORE = 30 * 24 * 3600  # seconds before the end of the certificate
LARGEST_CERTIFICATE = 64 * 1024  # bytes
TOKEN_HINT = "create a new token with `edge-osbuild fleet enrol-token`, and apply a seed with it"  # noqa: S105


def identity_files(system: System) -> TlsFiles:
    """Return the files of this device's identity; they may not exist yet."""
    folder = system.path(FOLDER)
    return TlsFiles(folder / AUTHORITY, folder / CERTIFICATE, folder / KEY)


def prepare_identity(system: System, settings: FleetSettings) -> TlsFiles:
    """Return the files of this device's identity, which enrols or renews its certificate if needed.

    It enrols for each server and each enrolment token once. Raises `Problem` and `OSError`.
    """
    files = identity_files(system)
    make_folder(files.key.parent, 0o700)
    write_file(files.authority, settings.authority.encode(), 0o644)
    use_next_identity(files)
    if not files.key.exists():
        make_key(files.key)
    enrolled = state_files.read_object(system, ENROLMENT, {"server": str, "token": str})
    same_server = files.certificate.exists() and enrolled.get("server") == settings.server
    if not same_server or (settings.token and enrolled.get("token") != digest_token(settings.token)):
        try:
            enrol_device(system, settings, files)
        except Problem as problem:
            if not same_server:
                raise
            print(*problem.lines(), "this device keeps the certificate that it has", sep="\n", flush=True)
    if expires_soon(files.certificate):
        store_certificate(files, request_certificate(settings, files, RENEW, files.make_context()))
    return files


def rotate_identity(system: System, settings: FleetSettings) -> TlsFiles:
    """Make a new key, get a certificate for it, and use both from now on. Raises `Problem` and `OSError`.

    Until both are on the disk, the old ones are used. The server accepts both until it learns that the new ones are.
    """
    if settings.target_token:
        hint = "make a new target token on the server, and apply a seed with it"
        raise Problem("this device has a target token instead of a certificate", hint=hint)
    files = identity_files(system)
    new = next_identity(files)
    make_key(new.key)
    certificate = request_certificate(settings, new, RENEW, files.make_context())
    store_certificate(new, certificate)
    use_next_identity(files)
    return files


def next_identity(files: TlsFiles) -> TlsFiles:
    """Return the files of the key and the certificate that replace those in `files`."""
    key, certificate = (path.with_name(f"{path.name}{NEXT}") for path in (files.key, files.certificate))
    return TlsFiles(files.authority, certificate, key)


def use_next_identity(files: TlsFiles) -> None:
    """Complete the change to a new key and its certificate, if both are there. May be repeated. Raises `OSError`."""
    new = next_identity(files)
    if new.certificate.exists():  # it was stored last, so the key was stored too, or is in use already
        if new.key.exists():
            new.key.rename(files.key)
            sync_path(files.key.parent)
        new.certificate.rename(files.certificate)
        sync_path(files.key.parent)
    else:
        new.key.unlink(missing_ok=True)  # it has no certificate, or its certificate was lost


def enrol_device(system: System, settings: FleetSettings, files: TlsFiles) -> None:
    """Get a certificate for the enrolment token, and remember which one it was. Raises `Problem` and `OSError`."""
    if not settings.token:
        raise Problem("this device is not enrolled, and its seed has no enrolment token", hint=TOKEN_HINT)
    context = ssl.create_default_context(cafile=files.authority)
    store_certificate(files, request_certificate(settings, files, ENROL, context))
    enrolled = {"server": settings.server, "token": digest_token(settings.token)}
    write_file(system.path(ENROLMENT), json.dumps(enrolled).encode() + b"\n", 0o600)


def digest_token(token: str) -> str:
    """Return what is stored of an enrolment token."""
    return hashlib.sha256(token.encode()).hexdigest()


def copy_identity(system: System, settings: FleetSettings) -> TlsFiles:
    """Copy this device's identity to files of root, which has no reason to trust links or pipes of another user.

    RAUC's program that streams a bundle runs as that user, and may read the copies. Raises `OSError`.
    """
    own = identity_files(system)
    copies = TlsFiles(*(system.path(COPIES) / path.name for path in (own.authority, own.certificate, own.key)))
    make_folder(copies.key.parent, 0o755)
    write_file(copies.authority, settings.authority.encode(), 0o644)
    write_file(copies.certificate, read_file(own.certificate, links=False), 0o644)
    write_file(copies.key, read_file(own.key, links=False), 0o600)
    with suppress(KeyError):  # only a device has this user
        os.chown(copies.key, *pwd.getpwnam(USER)[2:4])
    return copies


def server_token(system: System, settings: FleetSettings) -> ServerToken | None:
    """Return the target token of this device, with a file of the authority; None if it has none. Raises `OSError`.

    For root.
    """
    if not settings.authorization:
        return None
    authority = system.path(COPIES) / AUTHORITY
    make_folder(authority.parent, 0o755)
    write_file(authority, settings.authority.encode(), 0o644)
    return ServerToken(authority, settings.authorization)


def authority_context(settings: FleetSettings) -> ssl.SSLContext:
    """Return the side of TLS of a device that has no certificate."""
    context = ssl.create_default_context(cadata=settings.authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def device_context(system: System, settings: FleetSettings) -> ssl.SSLContext:
    """Return this device's side of TLS, with its certificate if it is enrolled. For root. Raises `OSError`."""
    if not settings.authorization and identity_files(system).certificate.exists():
        return copy_identity(system, settings).make_context()
    return authority_context(settings)


def make_key(path: Path) -> None:
    """Make a key on the curve P-256. It never leaves this device. Raises `Problem` and `OSError`."""
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    write_file(path, run_openssl(command).encode(), 0o600)


def request_certificate(settings: FleetSettings, files: TlsFiles, path: str, context: ssl.SSLContext) -> bytes:
    """Return the certificate that the server issues for a new request of this device. Raises `Problem`."""
    request = run_openssl(["openssl", "req", "-new", "-key", str(files.key), "-subj", f"/CN={settings.node}"])
    document = {"device": settings.node, "request": request, "token": settings.token or ""}
    address = settings.server.rstrip("/") + path
    post = urllib.request.Request(
        address, json.dumps(document).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with open_request(post, PATIENCE, time.monotonic() + PATIENCE, redirects=False, context=context) as answer:
            return answer.read(LARGEST_CERTIFICATE)
    except urllib.error.HTTPError as error:
        with error:
            reason = error.read(LARGEST_CERTIFICATE).decode(errors="replace")
        raise Problem(f"the update server refuses this device: {error.code} {reason}", hint=TOKEN_HINT) from error
    except (OSError, *INVALID_ANSWERS) as error:
        reason = str(getattr(error, "reason", None) or error)
        raise Problem(f"the update server cannot be reached: {reason}", where=address) from error


def store_certificate(files: TlsFiles, certificate: bytes) -> None:
    """Store a certificate that belongs to the key. Raises `Problem` and `OSError`."""
    new = files.certificate.with_name(f"{files.certificate.name}.new")
    write_file(new, certificate, 0o644)
    try:
        ssl.create_default_context(cafile=files.authority).load_cert_chain(new, files.key)
    except ssl.SSLError as error:
        new.unlink()
        raise Problem("the update server has sent something else than a certificate for this device's key") from error
    write_file(files.certificate, certificate, 0o644)
    new.unlink()


def expires_soon(certificate: Path) -> bool:
    """Whether a certificate is valid for less than 30 days."""
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-checkend", str(RENEW_BEFORE)]
    try:
        return run_command(command, timeout=OPENSSL_TIMEOUT).returncode != 0
    except CommandNotFinished:
        return False


def run_openssl(command: list[str]) -> str:
    """Return the output of openssl(1). Raises `Problem`."""
    try:
        result = run_command(command, timeout=OPENSSL_TIMEOUT)
    except CommandNotFinished as error:
        raise Problem(f"openssl cannot be run: {error}") from error
    if result.returncode:
        raise Problem(f"openssl has failed: {result.stderr.strip()[-300:]}")
    return result.stdout

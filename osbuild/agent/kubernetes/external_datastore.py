"""A database of PostgreSQL or MySQL as the datastore of several servers (`datastore-endpoint`).

The first server stores in the database what the others need (`server_bundle`), sealed with a key of the token. Its
address contains a password, so it is in files for root only, and in no argument of a process.
"""

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from osbuild.agent.kubernetes import join_protocol, pki, secrets_encryption, server_bundle
from osbuild.agent.kubernetes.join_failure import FailureKind, JoinError
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.server_settings import ENDPOINT
from osbuild.agent.kubernetes.settings import write_json
from osbuild.agent.kubernetes.token_files import read_password
from osbuild.shared.files import read_file
from osbuild.shared.json_text import parse_json
from osbuild.shared.node_settings import NodeSettings

PROGRAM = "usr/bin/edge-kubernetes"
TIMEOUT = 90.0  # seconds


def get_keys(settings: NodeSettings, paths: Paths) -> None:
    """Store the keys of the cluster; the first server makes them. Raises `OSError`, `ValueError` and `Problem`."""
    content = run_bootstrap(settings, paths, "get")
    if not content:
        files = make_keys(settings, paths)
        content = run_bootstrap(settings, paths, "create", seal_keys(settings, paths, files))
    keys, sealed = read_content(settings, content)
    try:
        files = server_bundle.open_bundle(paths, keys.bundle, sealed)
    except ValueError as error:
        raise JoinError(FailureKind.TOKEN, f"the database is that of servers with another token: {error}") from error
    server_bundle.store_bundle(paths, files)
    record_published(paths, content, keys)


def publish_keys(settings: NodeSettings, paths: Paths) -> None:
    """Seal the keys in the database again if the token has changed. Raises `OSError`, `ValueError` and `Problem`."""
    try:
        record = parse_json(read_file(published_record(paths)).decode())
        keys = derive_keys(settings, record["salt"])
        if record["check"] == join_protocol.check_value(keys):
            return
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        pass  # it is written again
    names = server_bundle.bundle_names(paths)
    files = {name: read_file(paths.pki / name).decode() for name in names if (paths.pki / name).exists()}
    content = run_bootstrap(settings, paths, "put", seal_keys(settings, paths, files))
    record_published(paths, content, read_content(settings, content)[0])


def published_record(paths: Paths) -> Path:
    return paths.data / "bootstrap.json"


def record_published(paths: Paths, content: str, keys: join_protocol.JoinKeys) -> None:
    """Record with which token the keys in the database are sealed. Raises `OSError`."""
    record = {"salt": parse_json(content)["salt"], "check": join_protocol.check_value(keys)}
    write_json(published_record(paths), record, 0o600)


def derive_keys(settings: NodeSettings, salt: str) -> join_protocol.JoinKeys:
    """The keys of this server's token. Raises `Problem` and `ValueError`."""
    return join_protocol.derive_keys(read_password(settings.token or "", "kubernetes.token"), salt)


def seal_keys(settings: NodeSettings, paths: Paths, files: dict[str, str]) -> str:
    """What the database gets. Raises `Problem`."""
    salt = secrets.token_hex(join_protocol.SALT)
    return json.dumps({"salt": salt, "sealed": server_bundle.seal(paths, derive_keys(settings, salt).bundle, files)})


def read_content(settings: NodeSettings, content: str) -> tuple[join_protocol.JoinKeys, str]:
    """The keys for what the database has, and the sealed bundle. Raises `ValueError`."""
    try:
        document = parse_json(content)
        return derive_keys(settings, document["salt"]), str(document["sealed"])
    except (KeyError, TypeError) as error:
        raise ValueError("the keys in the database are damaged") from error


def make_keys(settings: NodeSettings, paths: Paths) -> dict[str, str]:
    """New keys for a cluster. Raises `OSError` and `Problem`."""
    folder, plan = paths.data / ".pki.made", paths.run / "pki.json"
    shutil.rmtree(folder, ignore_errors=True)
    write_json(plan, {"folder": str(folder), "authorities": ["ca", "front-proxy-ca"], "keys": ["sa"]})
    pki.run_edge_pki(paths.root, plan)
    files = {path.name: path.read_text() for path in folder.iterdir()}
    shutil.rmtree(folder)
    if settings.flag(secrets_encryption.OPTION, default=True):
        files[paths.encryption_key.name] = json.dumps(secrets_encryption.make_key())
    return files


def run_bootstrap(settings: NodeSettings, paths: Paths, action: str, content: str = "") -> str:
    """Read or write the keys in the database, and return what it has. Raises `OSError`."""
    command: list[str | Path] = [paths.root / PROGRAM, "bootstrap", paths.database, action]
    try:
        result = subprocess.run(command, input=content, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise OSError("the database does not answer") from None
    if result.returncode:
        lines = redact(settings, result.stderr).strip().splitlines() or ["no reason"]
        raise OSError(f"the database cannot be used: {lines[-1]}")
    return str(parse_json(result.stdout))


def redact(settings: NodeSettings, text: str) -> str:
    """`text` without the address of the database and its password."""
    endpoint = settings.option(ENDPOINT, "")
    secret = re.search(r"://[^:@/]*:(.*)@", endpoint)
    for part in (endpoint, endpoint.partition("://")[2], secret and secret[1]):
        if part:
            text = text.replace(part, "…")
    return text

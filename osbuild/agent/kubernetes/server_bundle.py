"""What all servers of a cluster have in common: its certificate authorities, and the keys of tokens and of Secrets.

A server that joins reads it over the joining protocol. It is sealed with a key that depends on the token of servers
(AES-256-GCM, `edge-pki seal`), so that neither a backup of the datastore nor an administrator of the API has it.
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import etcd, pki
from osbuild.agent.kubernetes.paths import Paths
from osbuild.shared.files import read_file, sync_path, write_file
from osbuild.shared.json_text import parse_json

AUTHORITIES = ("ca", "front-proxy-ca", etcd.AUTHORITY)
REQUIRED = ("ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key")
NAMES = (*(f"{name}{suffix}" for name in AUTHORITIES for suffix in (".crt", ".key")), "sa.key")


def bundle_names(paths: Paths) -> list[str]:
    """The names of the files in `pki` that belong to the bundle."""
    return sorted({*NAMES, paths.encryption_key.name})


def seal_bundle(paths: Paths, key: bytes) -> str:
    """The bundle of this server, sealed. Raises `OSError` and `Problem`."""
    files = {name: read_file(paths.pki / name).decode() for name in bundle_names(paths) if (paths.pki / name).exists()}
    return seal(paths, key, files)


def seal(paths: Paths, key: bytes, files: Mapping[str, str]) -> str:
    """Files by name, sealed. Raises `Problem`."""
    return base64.b64encode(run_seal(paths, "seal", key, json.dumps(dict(files)).encode())).decode()


def open_bundle(paths: Paths, key: bytes, sealed: str) -> dict[str, str]:
    """The files of a sealed bundle, by name. Raises `ValueError` if it is for another token or damaged."""
    try:
        content = run_seal(paths, "open", key, base64.b64decode(sealed))
    except Problem as problem:
        raise ValueError(f"the keys of the cluster cannot be opened: {problem.message}") from None
    files = parse_json(content.decode())
    names = set(bundle_names(paths))
    if not isinstance(files, dict) or not all(name in names and isinstance(text, str) for name, text in files.items()):
        raise ValueError("the server has sent unknown files")
    if missing := [name for name in REQUIRED if not files.get(name)]:
        raise ValueError(f"the server has not sent {', '.join(missing)}")
    return files


def store_bundle(paths: Paths, files: dict[str, str]) -> None:
    """Make `pki` of a server that has none, all of it or nothing. Raises `OSError`."""
    folder = paths.pki.with_name(".pki.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    for name, text in files.items():
        write_file(folder / name, text.encode(), 0o644 if name.endswith(".crt") else 0o600)
    if paths.pki.exists():  # what an interrupted start has left
        shutil.rmtree(paths.pki)
    folder.rename(paths.pki)
    sync_path(paths.pki.parent)


def run_seal(paths: Paths, action: str, key: bytes, content: bytes) -> bytes:
    """Seal or open `content` with a key of 32 bytes. Raises `Problem`."""
    program: Path = paths.root / pki.PROGRAM
    result = subprocess.run(
        [program, action], input=key.hex().encode() + b"\n" + content, capture_output=True, check=False
    )
    if result.returncode:
        raise Problem(result.stderr.decode(errors="replace").strip(), where=str(program))
    return result.stdout

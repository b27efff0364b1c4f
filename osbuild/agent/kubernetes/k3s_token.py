"""The join token of a K3s server node whose profile does not set one."""

import csv
import re
import secrets
from pathlib import Path

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.agent.state_files import read_text_file


def server_token(paths: Paths) -> str:
    """The token, stored on the data partition. A token that K3s has chosen already is kept. Raises `OSError`."""
    # K3s would choose a token and encrypt parts of its datastore with it, but write it without fsync(2). If a power cut
    # lost this file, K3s would not start any more.
    stored = read_secret(paths.server_token)
    token = read_password_file(paths) or stored or secrets.token_hex(32)
    if token != stored:
        write_text(paths.server_token, token + "\n", 0o600)
    return token


def read_password_file(paths: Paths) -> str:
    """The token in K3s' password file (lines `password,user,…`), which `k3s token rotate` changes; empty if none."""
    try:
        with (paths.data / "server/cred/passwd").open(newline="", errors="replace") as file:
            token = next((row[0] for row in csv.reader(file) if len(row) > 2 and row[1] == "server"), "")
            return token if is_secret(token) else ""
    except (FileNotFoundError, csv.Error):
        return ""


def read_secret(path: Path) -> str:
    """The token or password in a file; empty if there is none. A damaged file is reported and renamed."""
    return read_text_file(path, is_secret, secret=True)


def is_secret(text: str) -> bool:
    """Whether a text can be a token or a password: printable ASCII without blanks."""
    return bool(re.fullmatch(r"[!-~]+", text))

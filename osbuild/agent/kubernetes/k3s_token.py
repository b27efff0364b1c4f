"""The join token of a K3s server node whose profile does not set one."""

import secrets
from pathlib import Path

from osbuild.agent.kubernetes.k3s_password import is_secret, read_password_file
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


def read_secret(path: Path) -> str:
    """The token or password in a file; empty if there is none. A damaged file is reported and renamed."""
    return read_text_file(path, is_secret, secret=True)

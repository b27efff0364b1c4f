"""The token of a K3s server whose profile gives none."""

import csv
import secrets

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text


def server_token(paths: Paths) -> str:
    """The token of a server whose profile gives none, kept on the data partition.

    K3s would choose one itself. It encrypts what is in its datastore with it, and never starts again if a power cut
    takes the file that it was written to. A cluster that K3s has chosen one for keeps it. Raises `OSError`.
    """
    kept = paths.server_token.read_text().strip() if paths.server_token.is_file() else ""
    token = password_of_server(paths) or kept or secrets.token_hex(32)
    if token != kept:
        write_text(paths.server_token, token + "\n", 0o600)
    return token


def password_of_server(paths: Paths) -> str:
    """What K3s takes as its token, by its file of passwords: `password,user,…` in each line; empty if there is none.

    `k3s token rotate` changes it there.
    """
    try:
        with (paths.data / "server/cred/passwd").open(newline="", errors="replace") as file:
            return next((row[0] for row in csv.reader(file) if len(row) > 1 and row[1] == "server"), "")
    except (FileNotFoundError, csv.Error):
        return ""

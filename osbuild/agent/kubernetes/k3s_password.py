"""The passwords in K3s' file of users, which `k3s token rotate` changes."""

import csv
import re

from osbuild.agent.kubernetes.paths import Paths


def read_password_file(paths: Paths, user: str = "server") -> str:
    """The password of a user in K3s' password file (lines `password,user,…`), without its form; empty if none."""
    try:
        with (paths.data / "server/cred/passwd").open(newline="", errors="replace") as file:
            token = next((row[0] for row in csv.reader(file) if len(row) > 2 and row[1] == user), "")
            return token if is_secret(token) else ""
    except (FileNotFoundError, csv.Error):
        return ""


def is_secret(text: str) -> bool:
    """Whether a text can be a token or a password: printable ASCII without blanks."""
    return bool(re.fullmatch(r"[!-~]+", text))

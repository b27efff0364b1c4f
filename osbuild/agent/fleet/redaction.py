"""Removes secrets from text that leaves the device: those that it knows, and what looks like one."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from osbuild.agent.fleet.action_record import FOLDER
from osbuild.agent.fleet.identity import COPIES, KEY
from osbuild.agent.system import System
from osbuild.shared.node_settings import AGENT_FILE, KUBERNETES_FILE, PROXY_FILE
from osbuild.shared.urls import redact_urls

HIDDEN = "…"
SERVER_TOKEN = "/var/lib/kubernetes/server-token"  # noqa: S105 - a file
KEYS = (f"{FOLDER}/{KEY}", f"{COPIES}/{KEY}")
SHORTEST = 6  # characters of a secret that is looked for; a shorter one would be found within words
LONGEST_LINE = 4000  # characters; the rest of a line is cut off
LONGEST_URL = 500  # characters; a longer one is hidden as a whole
LONGEST_KEY = 200  # lines of a private key without an end
NAMES = r"pass(?:word|wd|phrase)|secret|token|api[_-]?key|private[_-]?key|authorization|credential|cookie|psk"
SECRET_NAME = re.compile(rf"{NAMES}|access-key|endpoint|auth|proxy", re.IGNORECASE)
# The quantifiers have limits, because anybody who can write to the journal chooses the text.
PATTERNS = (
    # NAME=value, NAME: value, "NAME": "value", with or without the name of an authentication scheme (RFC 9110, 11.1)
    (re.compile(rf"((?:{NAMES})[\w-]{{0,40}}[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)(?:(?:bearer|basic)\s{{1,4}})?[^\s\"',;&]+",
                re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(cookie2?:\s{0,4}).*", re.IGNORECASE), rf"\1{HIDDEN}"),  # all of a header
    (re.compile(rf"(--[\w-]{{0,40}}(?:{NAMES}|key)[\w-]{{0,40}}\s{{1,4}})\S+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s{1,4}[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"edge_(?:enrol|access|session)_[\w-]+"), HIDDEN),
    (re.compile(r"K10[0-9a-f]{64}::\S+"), HIDDEN),  # K3s
    (re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"), HIDDEN),  # bootstrap tokens of Kubernetes
    (re.compile(r"\beyJ[\w-]{10,}(?:\.[\w-]+)*"), HIDDEN),  # RFC 7519
    (re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/=]+"), HIDDEN),  # PEM in base64, as in a kubeconfig
    (re.compile(r"\$(?:1|2[abxy]|5|6|7|y|gy)\$[./A-Za-z0-9$=,+-]{8,}"), HIDDEN),  # crypt(5)
)  # fmt: skip
URL = re.compile(r"[a-z0-9+.-]{0,20}://[^\s\"'`<>]*", re.IGNORECASE)


def hide_secrets(text: str, known: Iterable[str]) -> str:
    """Return a text without the secrets `known`, private keys, passwords, tokens, and the secret parts of URLs."""
    return "".join(f"{line}\n" for line in hide_lines(text.splitlines(), sorted(known, key=len, reverse=True)))


def hide_lines(lines: Iterable[str], known: list[str]) -> Iterator[str]:
    """Yield lines without secrets. The lines of a private key become one."""
    key_lines = 0  # of the private key that has begun; the journal writes something before each of them
    for line in lines:
        if key_lines and "-----END" not in line and key_lines < LONGEST_KEY:
            key_lines += 1
            continue
        begin, head, rest = line.partition("-----BEGIN")
        if head and "PRIVATE KEY" in rest:
            key_lines = 0 if "-----END" in rest else 1
            line = f"{begin}{HIDDEN} a private key"
        elif key_lines:
            key_lines = 0
            continue
        yield hide_in_line(line, known)


def hide_in_line(line: str, known: list[str]) -> str:
    """Return one line without secrets, and not longer than `LONGEST_LINE`."""
    for secret in known:  # before anything is cut or changed
        line = line.replace(secret, HIDDEN)
    line = line[:LONGEST_LINE]
    if "://" in line:
        line = URL.sub(lambda match: hide_url(match[0]), line)
    for pattern, replacement in PATTERNS:
        line = pattern.sub(replacement, line)
    return line


def hide_url(word: str) -> str:
    """Return an address without user, password and query; a hidden one if it is not plain what they are."""
    plain = len(word) <= LONGEST_URL and not word.startswith("://")
    return redact_urls(word) if plain else HIDDEN


def known_secrets(system: System) -> frozenset[str]:
    """Return the secrets in the files of this device that programs may have printed."""
    agent = system.json(AGENT_FILE)
    secrets = {str(agent.get(name) or "") for name in ("enrolment", "token")}
    secrets |= set(find_secrets(system.json(KUBERNETES_FILE)))
    for line in system.text(PROXY_FILE).splitlines():
        user, at, _ = line.rpartition("://")[2].rpartition("@")
        secrets |= {user, user.partition(":")[2]} if at else set()
    secrets.add(system.text(SERVER_TOKEN).strip())
    secrets |= {field for line in system.text("/etc/shadow").splitlines() for field in line.split(":")[1:2]}
    for name in KEYS:
        secrets |= {line for line in system.text(name).splitlines() if not line.startswith("-----")}
    return frozenset(secret for secret in secrets if len(secret) >= SHORTEST)


def find_secrets(settings: Any, name: str = "") -> Iterator[str]:
    """Yield the texts in settings whose names say that they are secret."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from find_secrets(value, str(key))
    elif isinstance(settings, list):
        for value in settings:
            yield from find_secrets(value, name)
    elif isinstance(settings, str) and SECRET_NAME.search(name):
        yield settings

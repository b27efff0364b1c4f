"""Files of a seed for `kubernetes.registries`: hosts.toml for the system's containerd, registries.yaml for K3s.

Formats: containerd's docs/hosts.md (certs.d) and docs/cri/registry.md (accounts); K3s' documentation, "Private Registry
Configuration".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from osbuild.config import secrets
from osbuild.config.checks.registries import EVERY, endpoint_host
from osbuild.config.profile import KubernetesSettings
from osbuild.config.registries import RegistryHost, RegistrySettings, RegistryTls

FOLDER = "/etc/containerd/certs.d"
CREDENTIALS = "/etc/edge-osbuild/registry-credentials.toml"  # read by `start-containerd` of the overlay `kubernetes`
K3S_FILE = "/etc/rancher/k3s/registries.yaml"
PLUGIN = '[plugins."io.containerd.grpc.v1.cri".registry.configs.{host}.auth]'
# The hosts at which containerd requests images of a registry, if these are not the registry's name.
REQUESTED = {"docker.io": "registry-1.docker.io"}


@dataclass(frozen=True)
class SeedFile:
    """A file that cloud-init writes. `content` may be secret."""

    path: str
    content: str = field(repr=False)
    permissions: str = "0600"


def registry_files(settings: KubernetesSettings, folder: Path) -> list[SeedFile]:
    """Return the files. Secrets are resolved relative to `folder`. Raises `Error`."""
    registries = settings.registries
    if settings.role == "none" or registries == RegistrySettings():
        return []
    files = [*tls_files(registries, folder), *host_files(registries)]
    accounts = {host: account_of(entry, folder) for host, entry in registries.configs.items()}
    accounts = {host: account for host, account in accounts.items() if account}
    if accounts:
        files.append(SeedFile(CREDENTIALS, credentials_toml(accounts)))
    if settings.distribution == "k3s":
        files.append(SeedFile(K3S_FILE, json.dumps(k3s_registries(registries, accounts), indent=2) + "\n"))
    return files


def host_folder(host: str) -> str:
    """Return the folder in which containerd reads the settings of a registry."""
    return f"{FOLDER}/{'_default' if host == EVERY else host}"


def tls_paths(host: str, tls: RegistryTls) -> dict[str, str]:
    """Return the paths on the node of the certificates and the key of `host`, by K3s' keys."""
    names = {"ca_file": "ca.crt", "cert_file": "client.cert", "key_file": "client.key"}
    return {key: f"{host_folder(host)}/{name}" for key, name in names.items() if getattr(tls, key) is not None}


def tls_files(registries: RegistrySettings, folder: Path) -> Iterator[SeedFile]:
    """Yield the certificates and keys. Raises `Error`."""
    if not any(tls_paths(host, entry.tls) for host, entry in registries.configs.items()):
        return
    from osbuild.seed.certificates import read_certificates, read_pair, to_pem  # cryptography takes long to import

    for host, entry in registries.configs.items():
        dotted, tls = f"kubernetes.registries.configs.{host}.tls", entry.tls
        paths = tls_paths(host, tls)
        if tls.ca_file is not None:
            content = to_pem(read_certificates(tls.ca_file, folder, f"{dotted}.ca_file"))
            yield SeedFile(paths["ca_file"], content, "0644")
        if tls.cert_file is not None and tls.key_file is not None:
            certificate, key = read_pair(tls.cert_file, tls.key_file, folder, f"{dotted}.cert_file")
            yield SeedFile(paths["cert_file"], certificate, "0644")
            yield SeedFile(paths["key_file"], key)


def host_files(registries: RegistrySettings) -> Iterator[SeedFile]:
    """Yield a hosts.toml for each registry that has mirrors or certificates of its own."""
    named = [host for host, entry in registries.configs.items() if entry.tls != RegistryTls()]
    for host in dict.fromkeys([*registries.mirrors, *named]):
        # What is above the first section applies to the registry itself, which is tried last.
        lines = ["# Written from `kubernetes.registries`.", *tls_lines(host, registries)]
        lines += ["", "[host]"]  # containerd refuses a file without this section
        mirror = registries.mirrors.get(host)
        for url in mirror.endpoint if mirror else ():
            path = urlsplit(url).path.rstrip("/")
            plain = url.rstrip("/").removesuffix("/v2") if path in ("", "/v2") else url.rstrip("/")
            lines += ["", f"[host.{quote_toml(plain)}]", 'capabilities = ["pull", "resolve"]']
            if path not in ("", "/v2"):  # another path than that of the registry API is used as it is
                lines.append("override_path = true")
            lines += tls_lines(endpoint_host(url), registries)
        yield SeedFile(f"{host_folder(host)}/hosts.toml", "\n".join(lines) + "\n", "0644")


def tls_lines(host: str, registries: RegistrySettings) -> Iterator[str]:
    """Yield the lines with the certificates of `host`, or of all hosts if it has no entry."""
    known = host if host in registries.configs else EVERY
    tls = registries.configs.get(known, RegistryHost()).tls
    paths = tls_paths(known, tls)
    if "ca_file" in paths:
        yield f"ca = [{quote_toml(paths['ca_file'])}]"
    if "key_file" in paths:
        yield f"client = [[{quote_toml(paths['cert_file'])}, {quote_toml(paths['key_file'])}]]"
    if tls.insecure_skip_verify:
        yield "skip_verify = true"


def account_of(entry: RegistryHost, folder: Path) -> dict[str, str]:
    """Return the account at a registry with its secrets, by K3s' keys; empty without one. Raises `Error`."""
    auth = entry.auth
    if auth.auth is not None:
        return {"auth": secrets.resolve_secret(auth.auth, folder=folder)}
    if auth.username is None or auth.password is None:
        return {}
    return {"username": auth.username, "password": secrets.resolve_secret(auth.password, folder=folder)}


def credentials_toml(accounts: dict[str, dict[str, str]]) -> str:
    """Return the sections of containerd's configuration with accounts."""
    sections = []
    for host, account in accounts.items():
        values = [f"{key} = {quote_toml(value)}" for key, value in account.items()]
        sections.append("\n".join([PLUGIN.format(host=quote_toml(REQUESTED.get(host, host))), *values]))
    return "\n\n".join(sections) + "\n"


def k3s_registries(registries: RegistrySettings, accounts: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return registries.yaml of K3s, with paths on the node."""
    configs: dict[str, Any] = {}
    for host, entry in registries.configs.items():
        tls: dict[str, Any] = dict(tls_paths(host, entry.tls))
        if entry.tls.insecure_skip_verify:
            tls["insecure_skip_verify"] = True
        parts = {"auth": accounts.get(host), "tls": tls}
        configs[host] = {key: value for key, value in parts.items() if value}
    mirrors = {host: {"endpoint": list(mirror.endpoint)} for host, mirror in registries.mirrors.items()}
    return {"mirrors": mirrors, "configs": configs}


def quote_toml(text: str) -> str:
    """Return a basic string of TOML, which is that of JSON but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

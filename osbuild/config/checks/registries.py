"""Checks `kubernetes.registries`: hosts and URLs that containerd would not use, and settings without an effect."""

from collections.abc import Callable
from urllib.parse import urlsplit

from osbuild.config.checks.hosts import url_problem
from osbuild.config.document import quote_text
from osbuild.config.registries import RegistryHost, RegistryMirror, RegistrySettings
from osbuild.shared.errors import Error

EVERY = "*"
DOCKER_NAMES = ("index.docker.io", "registry-1.docker.io")

Where = Callable[..., str]


def check_registries(registries: RegistrySettings, where: Where) -> None:
    """Raise `Error` for the first invalid entry."""
    for kind, entries in (("mirrors", registries.mirrors), ("configs", registries.configs)):
        for host in entries:
            check_registry_name(host, where(f"kubernetes.registries.{kind}.{host}"))
    for host, mirror in registries.mirrors.items():
        check_mirror(host, mirror, where)
    for host, settings in registries.configs.items():
        check_registry_host(host, settings, where)


def check_registry_name(name: str, position: str) -> None:
    """Raise `Error` unless `name` is `HOST`, `HOST:PORT` or `*`."""
    if name == EVERY:
        return
    if name in DOCKER_NAMES:
        message = f"found the registry {quote_text(name)}, which images name otherwise"
        raise Error(message, where=position, hint="write `docker.io`")
    problem = "it has other characters than a host and a port" if set(name) & set("/@?#") else None
    if problem is None:
        problem = url_problem(f"https://{name}")
    if problem is not None:
        message = f"found the registry {quote_text(name)}, expected a host: {problem}"
        raise Error(message, where=position, hint="write `registry.example` or `registry.example:5000`, or `*` for all")


def check_mirror(host: str, mirror: RegistryMirror, where: Where) -> None:
    dotted = f"kubernetes.registries.mirrors.{host}"
    if not mirror.endpoint:
        message = f"found no `endpoint` of the mirror of {quote_text(host)}"
        raise Error(message, where=where(dotted), hint="write `endpoint: [https://mirror.example:5000]`")
    seen: set[str] = set()
    for number, url in enumerate(mirror.endpoint):
        position = where(f"{dotted}.endpoint[{number}]")
        if problem := url_problem(url):
            message = f"found the URL {quote_text(url)}, expected that of a mirror: {problem}"
            raise Error(message, where=position, hint="write it like `https://mirror.example:5000`")
        if url.rstrip("/") in seen:
            raise Error(f"found the URL {quote_text(url)} twice", where=position, hint="remove one of them")
        seen.add(url.rstrip("/"))


def check_registry_host(host: str, settings: RegistryHost, where: Where) -> None:
    dotted, auth, tls = f"kubernetes.registries.configs.{host}", settings.auth, settings.tls
    if settings == RegistryHost():
        message = f"found neither `auth` nor `tls` for the registry {quote_text(host)}"
        raise Error(message, where=where(dotted), hint="remove the entry, or write what it needs")
    if (auth.username is None) != (auth.password is None):
        message = f"found only one of `username` and `password` for the registry {quote_text(host)}"
        raise Error(message, where=where(f"{dotted}.auth", dotted), hint="write both")
    if auth.auth is not None and auth.username is not None:
        message = f"found both `auth` and `username` for the registry {quote_text(host)}"
        raise Error(message, where=where(f"{dotted}.auth.auth"), hint="keep one of them")
    if (tls.cert_file is None) != (tls.key_file is None):
        message = f"found only one of `cert_file` and `key_file` for the registry {quote_text(host)}"
        raise Error(message, where=where(f"{dotted}.tls", dotted), hint="write both")
    if tls.insecure_skip_verify and tls.ca_file is not None:
        message = f"found `ca_file` for the registry {quote_text(host)}, but `insecure_skip_verify` ignores it"
        raise Error(message, where=where(f"{dotted}.tls.ca_file"), hint="remove `insecure_skip_verify`")
    if host == EVERY and settings.auth != type(settings.auth)():
        message = "found an account for all registries, which would send its password to each of them"
        raise Error(message, where=where(f"{dotted}.auth", dotted), hint="name the registry instead of `*`")


def endpoint_host(url: str) -> str:
    """Return the `HOST` or `HOST:PORT` of an endpoint, by which `configs` names it."""
    return urlsplit(url).netloc

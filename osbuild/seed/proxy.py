"""A profile's proxy as an environment file (systemd.exec(5)). It may contain a password, so only root can read it."""

import re
from ipaddress import ip_interface
from pathlib import Path
from urllib.parse import urlsplit

from osbuild.config import secrets
from osbuild.config.checks.hosts import url_problem
from osbuild.config.checks.kubernetes import node_settings
from osbuild.config.profile import Profile
from osbuild.shared.errors import Error
from osbuild.shared.node_settings import PROXY_FILE, STABLE_ADDRESS

PATH = PROXY_FILE
LOOPBACK = ("localhost", "127.0.0.0/8", "::1")


def proxy_environment(profile: Profile, folder: Path) -> str | None:
    """Return the file's text, None without a proxy. Secrets are resolved relative to `folder`. Raises `Error`."""
    proxy = profile.network.proxy
    urls = {name: proxy_url(value, name, folder) for name in ("http", "https") if (value := getattr(proxy, name))}
    if not urls:
        return None
    variables = {f"{name}_proxy": text for name, text in urls.items()}
    variables["no_proxy"] = ",".join(proxy_exceptions(profile))
    # curl reads only `http_proxy`, and some programs read only `HTTP_PROXY`.
    lines = [f"{key}={value}" for name, value in variables.items() for key in (name, name.upper())]
    return "\n".join(lines) + "\n"


def proxy_url(value: str, name: str, folder: Path) -> str:
    """Return a proxy's URL with references resolved. Raises `Error`, which never contains the URL."""
    text = secrets.resolve_secret(value, folder=folder) if value.startswith(("file:", "env:")) else value
    where = f"network.proxy.{name}"
    if not re.fullmatch(r"https?://[!$%&'()*+,./0-9:;=@A-Z\[\]_a-z~-]+", text):
        hint = "write it as `http://user:password@proxy.example:3128`, with special characters as %XX"
        raise Error("this is not the URL of a proxy", where=where, hint=hint)
    parts = urlsplit(text)
    if (problem := url_problem(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")) is not None:
        raise Error(f"this is not the URL of a proxy: {problem}", where=where, hint="check its host and port")
    return text


def proxy_exceptions(profile: Profile) -> list[str]:
    """Return what is accessed without the proxy: the node, its networks, its cluster, and the profile's `no_proxy`."""
    exceptions = list(LOOPBACK)
    for kind in ("interfaces", "bonds", "vlans", "bridges", "wifis"):
        for link in getattr(profile.network, kind):
            # Go supports networks; Python and old versions of curl support only addresses.
            exceptions += [
                part for text in link.addresses for part in (text.partition("/")[0], str(ip_interface(text).network))
            ]
    settings = profile.kubernetes
    if settings.role != "none":
        cluster = node_settings(settings)
        domain = cluster.option("cluster-domain", "cluster.local")
        ranges = [text for both in (cluster.cluster_cidr, cluster.service_cidr) for text in both.split(",")]
        exceptions += [STABLE_ADDRESS, *ranges, ".svc", f".{domain}"]
        if settings.node_ip:
            exceptions += settings.node_ip.split(",")
        if settings.server and (host := urlsplit(settings.server).hostname):
            exceptions.append(host)
    return list(dict.fromkeys([*exceptions, *profile.network.proxy.no_proxy]))

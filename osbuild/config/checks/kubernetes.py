"""Checks a profile's `kubernetes` settings like Kubernetes' programs on the node: labels, taints, addresses, flags."""

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from osbuild.config.checks import k3s_options, option_values
from osbuild.config.checks.hosts import host_problem, url_problem
from osbuild.config.checks.kubelet_sysctls import check_kubelet_sysctls
from osbuild.config.checks.labels import check_labels, check_taints
from osbuild.config.checks.registries import check_registries
from osbuild.config.document import quote_text
from osbuild.config.metadata import REFERENCE
from osbuild.config.profile import SECRET_CONFIG, KubernetesSettings, Profile
from osbuild.config.scalars import find_nearest
from osbuild.shared import cluster_ranges, upstream_options
from osbuild.shared.components import OPTIONAL
from osbuild.shared.errors import Error
from osbuild.shared.kubernetes_versions import minor_version
from osbuild.shared.node_settings import NodeSettings

ARGUMENTS = (
    "kubelet-arg", "kube-apiserver-arg", "kube-controller-manager-arg", "kube-scheduler-arg", "kube-proxy-arg",
    "kube-cloud-controller-manager-arg", "etcd-arg",
)  # fmt: skip
RESERVED_FLAGS = {
    "node-labels": "`kubernetes.labels`",
    "register-with-taints": "`kubernetes.taints`",
    "node-ip": "`kubernetes.node_ip`",
    "hostname-override": "`hostname`",
    "cluster-dns": "`cluster-dns` in `kubernetes.config`",
    "cluster-domain": "`cluster-domain` in `kubernetes.config`",
    "service-cluster-ip-range": "`service-cidr` in `kubernetes.config`",
    "cluster-cidr": "`cluster-cidr` in `kubernetes.config`",
    "advertise-address": "`advertise-address` in `kubernetes.config`",
    "config": "nothing: the image sets it",
    "kubeconfig": "nothing: the image sets it",
    "root-dir": "nothing: the image sets it",
    "container-runtime-endpoint": "nothing: the image has its own containerd",
    "data-dir": "nothing: the image sets it",
}
ADDRESSES = ("datastore-endpoint", "etcd-s3-proxy")  # secret only if they contain a password
FIRST_UNLIMITED = (1, 34)  # the minor version from which a cluster may have more than 2^20 services
# A password in a URL may contain a `/`, `?` or `#` that is not escaped. Names may have a prefix, such as `sslpassword`.
PASSWORD = re.compile(
    r"[a-z][a-z0-9+.-]*://[^@\s]*:[^@\s]+@|(password|passwd|passphrase|pwd|secret)\s*=", re.IGNORECASE
)

Where = Callable[..., str]


def check_kubernetes(profile: Profile, where: Where) -> None:
    """Raise `Error` for the first value that Kubernetes would reject on the node, or that would have no effect."""
    settings = profile.kubernetes
    check_labels(settings, where)
    check_taints(settings, where)
    check_server(settings, where)
    check_config(settings, where)
    check_servers(settings, where)
    check_charts(settings, where)
    check_ingress(settings, where)
    check_upstream(settings, where)
    check_ranges(profile, where)
    check_kubelet_sysctls(profile, where)
    check_registries(settings.registries, where)


def check_server(settings: KubernetesSettings, where: Where) -> None:
    if settings.server is None:
        return
    if reason := url_problem(settings.server):
        message = f"found the URL {quote_text(settings.server)}, expected that of a server: {reason}"
        raise Error(message, where=where("kubernetes.server"), hint="write it like `https://192.0.2.10:6443`")
    if urlsplit(settings.server).hostname in (settings.node_ip or "").lower().split(","):
        message = f"found the server {quote_text(settings.server)}, which has the address of the node itself"
        hint = "write the URL of the server that the node joins; the first server of a cluster has none"
        raise Error(message, where=where("kubernetes.server"), hint=hint)


def check_servers(settings: KubernetesSettings, where: Where) -> None:
    """Raise `Error` if settings for several servers contradict each other."""
    for name in ("cluster-init", "datastore-endpoint"):
        if name in settings.config and settings.role == "agent":
            message = f"found {quote_text(name)} with the role agent, but only servers have a datastore"
            raise Error(message, where=where(f"kubernetes.config.{name}"), hint="remove it, or write `role: server`")
    if not node_settings(settings).flag("cluster-init"):
        return
    others = {"server": settings.server, "config.datastore-endpoint": settings.config.get("datastore-endpoint")}
    for name in (name for name, value in others.items() if value is not None):
        message = f"found `cluster-init` and `{name}`, which exclude each other"
        hint = "`cluster-init` is for the first server of a cluster with etcd; further servers have `server` instead"
        raise Error(message, where=where(f"kubernetes.{name}"), hint=hint)


def check_config(settings: KubernetesSettings, where: Where) -> None:
    for name, value in settings.config.items():
        position = where(f"kubernetes.config.{name}")
        check_secret(name, value, position)
        if reason := k3s_options.RESERVED.get(name):
            message = f"found {quote_text(name)} in `kubernetes.config`, which the image writes itself"
            raise Error(message, where=position, hint=f"use {reason}")
        if name not in k3s_options.KNOWN and (suggestion := k3s_options.suggest_option(name)):
            message = f"found {quote_text(name)} in `kubernetes.config`, which K3s does not know"
            raise Error(message, where=position, hint=f"did you mean `{suggestion}`?")
        check_value(name, value, position)
        if name in ARGUMENTS:
            for text in texts_in(value):
                check_argument(name, text, position, upstream=may_be_upstream(settings))
        if name == "tls-san":
            for text in texts_in(value):
                if reason := host_problem(text.removeprefix("*.")):
                    message = f"found {quote_text(text)} for `tls-san`, expected a host name or IP address: {reason}"
                    raise Error(message, where=position, hint="write it without `https://` and port")
    for number, name in enumerate(settings.disable):
        if name not in k3s_options.COMPONENTS and (component := find_nearest(name, k3s_options.COMPONENTS)):
            message = f"found no packaged component {quote_text(name)} to disable"
            raise Error(message, where=where(f"kubernetes.disable[{number}]"), hint=f"did you mean `{component}`?")
        if name in OPTIONAL and getattr(settings, key := OPTIONAL[name]):
            message = f"found {quote_text(name)} to disable, but `{key}: true` adds it"
            raise Error(
                message, where=where(f"kubernetes.disable[{number}]"), hint=f"remove it, or write `{key}: false`"
            )


def check_charts(settings: KubernetesSettings, where: Where) -> None:
    """Raise `Error` for a chart that no HelmChart object could install."""
    for number, name in enumerate(settings.charts):
        position = where(f"kubernetes.charts[{number}]")
        if not settings.helm:
            message = f"found the chart {quote_text(name)}, but nothing that would install it"
            raise Error(message, where=position, hint="write `helm: true`")
        if not name.endswith(".tgz"):
            message = f"found the chart {quote_text(name)}, expected the archive of a chart"
            raise Error(message, where=position, hint="make a `.tgz` file with `helm package FOLDER`")


def check_ingress(settings: KubernetesSettings, where: Where) -> None:
    """Raise `Error` if nothing gives the service of the ingress controller an address."""
    if not settings.ingress or settings.load_balancer or "servicelb" in settings.disable:
        return
    message = "found `ingress: true` without `load_balancer: true`, so the ingress would have no address"
    hint = "write `load_balancer: true`; or `disable: [servicelb]` if another one, such as MetalLB, gives addresses"
    raise Error(message, where=where("kubernetes.ingress"), hint=hint)


def check_value(name: str, value: Any, position: str) -> None:
    """Raise `Error` for a value that K3s cannot parse, or that makes it stop."""
    kind = option_values.OPTIONS.get(name)
    for item in value if isinstance(value, list) else [value]:
        text = str(item).lower() if isinstance(item, bool) else str(item)
        if problem := option_values.value_problem(kind, text):
            message = f"found {quote_text(text)} for {quote_text(name)}, expected {problem[0]}"
            raise Error(message, where=position, hint=problem[1])


def is_reference(name: str, value: Any) -> bool:
    """Whether the entry `name` of `kubernetes.config` refers to a secret."""
    return name in SECRET_CONFIG and isinstance(value, str) and re.fullmatch(REFERENCE, value) is not None


def check_secret(name: str, value: Any, position: str) -> None:
    """Raise `Error` for a literal secret: profiles are stored, sent and shown, so secrets must be references."""
    if is_reference(name, value):
        return
    if (name in SECRET_CONFIG and name not in ADDRESSES) or any(PASSWORD.search(text) for text in texts_in(value)):
        message = f"found a literal secret in {quote_text(name)} of `kubernetes.config`, expected a reference"
        hint = "put it in a file outside of the profile and write `file:PATH`, or `env:NAME` for a variable"
        if name not in SECRET_CONFIG:
            hint = "remove it: these may refer to a secret: " + ", ".join(SECRET_CONFIG)
        raise Error(message, where=position, hint=hint)


def texts_in(value: Any) -> Iterator[str]:
    """Yield every string in a value, which may be a list or mapping."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)
    elif value is not None:
        yield str(value)


def check_argument(name: str, text: str, position: str, *, upstream: bool) -> None:
    """Check one `flag=value` for a Kubernetes program. Raises `Error`."""
    flag = re.match(r"(--)?([a-z][a-z0-9-]*)[+-]?(=|$)", text)
    if flag is None:
        message = f"found {quote_text(text)} in `{name}`, expected `flag=value`"
        raise Error(message, where=position, hint="write a flag of the program's manual, such as `max-pods=50`")
    if (advice := RESERVED_FLAGS.get(flag[2])) and (upstream or flag[2] != "config"):  # K3s has none of its own
        raise Error(
            f"found the flag `{flag[2]}` in `{name}`, which the image sets", where=position, hint=f"use {advice}"
        )
    kind = option_values.FLAGS.get(name, {}).get(flag[2])
    if flag[3] and (problem := option_values.value_problem(kind, text.partition("=")[2])):
        message = f"found {quote_text(text)} in `{name}`, expected {problem[0]}"
        raise Error(message, where=position, hint=problem[1])
    if upstream and set(text) & upstream_options.UNIT_BREAKS:
        message = f"found {quote_text(text)} in `{name}`, with a blank, quote or backslash"
        hint = "the upstream distribution passes flags in a systemd unit, which would split or change it"
        raise Error(message, where=position, hint=hint)


def may_be_upstream(settings: KubernetesSettings) -> bool:
    """Whether the image may contain the upstream distribution."""
    return "upstream" in (settings.distribution, settings.if_unavailable)


def check_upstream(settings: KubernetesSettings, where: Where) -> None:
    """Raise `Error` for settings of K3s if the image has or may have the upstream distribution, which ignores them."""
    if settings.role == "none" or not may_be_upstream(settings):
        return
    substitute = settings.distribution != "upstream"
    upstreams = "the upstream distribution" + (" of `if_unavailable`" if substitute else "")
    advice = "write `if_unavailable: null`" if substitute else "use `distribution: k3s`"
    for name in settings.config:
        if name not in upstream_options.UPSTREAM_OPTIONS:
            message = f"found {quote_text(name)} in `kubernetes.config`, which {upstreams} does not have"
            hint = f"remove it, or {advice}; it has: {', '.join(upstream_options.UPSTREAM_OPTIONS)}"
            raise Error(message, where=where(f"kubernetes.config.{name}"), hint=hint)
    endpoint = settings.config.get("datastore-endpoint")
    literal = endpoint is not None and not is_reference("datastore-endpoint", endpoint)
    if literal and not str(endpoint).startswith(upstream_options.DATABASES):
        message = f"found a datastore that {upstreams} does not have"
        hint = "write an address that begins with one of: " + ", ".join(upstream_options.DATABASES)
        raise Error(message, where=where("kubernetes.config.datastore-endpoint"), hint=hint)
    backend = settings.config.get("flannel-backend")
    if backend is not None and backend not in upstream_options.FLANNEL_BACKENDS:
        message = f"found the backend {quote_text(str(backend))}, which {upstreams} does not have"
        hint = "write one of: " + ", ".join(upstream_options.FLANNEL_BACKENDS)
        raise Error(message, where=where("kubernetes.config.flannel-backend"), hint=hint)


def node_settings(settings: KubernetesSettings) -> NodeSettings:
    """Return the settings as the device reads them, without references to secrets."""
    return NodeSettings(role=settings.role, server=settings.server, node_ip=settings.node_ip, config=settings.config)


def check_ranges(profile: Profile, where: Where) -> None:
    """Check the addresses of cluster and node. Raises `Error`."""
    settings = profile.kubernetes
    cluster = node_settings(settings).ranges
    if "advertise-address" not in settings.config:
        cluster = dataclasses.replace(cluster, advertise_address=None)  # it follows from `node_ip`, which each node has
    minor = minor_version(settings.version) if settings.version else None
    few_services = minor is not None and minor < FIRST_UNLIMITED
    try:
        cluster_ranges.check_ranges(cluster, few_services=few_services)
    except cluster_ranges.RangeError as error:
        dotted = "kubernetes.node_ip" if error.name == "node-ip" else f"kubernetes.config.{error.name}"
        raise Error(str(error), where=where(dotted), hint=error.hint) from error
    if settings.role != "none":
        check_addresses(profile, cluster, where)


def check_addresses(profile: Profile, cluster: cluster_ranges.ClusterRanges, where: Where) -> None:
    """Compare static addresses with the cluster's ranges, and the node's address with the static ones."""
    static = dict(static_addresses(profile.network, "network"))
    for dotted, text in static.items():
        ranges = (("pods", cluster.cluster_cidr), ("services", cluster.service_cidr))
        for kind, cidr in ((kind, cidr) for kind, text in ranges for cidr in (text.split(",") if text else ())):
            if ipaddress.ip_interface(text).ip in ipaddress.ip_network(cidr):
                message = f"found the address {quote_text(text)} in {cidr}, the range of the {kind}"
                hint = f"write another address, or set another range for the {kind} in `kubernetes.config`"
                raise Error(message, where=where(dotted), hint=hint)
    node_addresses = {str(ipaddress.ip_interface(text).ip) for text in static.values()}
    if cluster.node_ip is None or not node_addresses or is_dynamic(profile.network):
        return
    for text in cluster.node_ip.split(","):
        if str(ipaddress.ip_address(text)) not in node_addresses:
            message = f"found the address {quote_text(text)} for the node, but none of its interfaces has this address"
            hint = f"write one of: {', '.join(sorted(node_addresses))}"
            raise Error(message, where=where("kubernetes.node_ip"), hint=hint)


def static_addresses(block: Any, dotted: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of every static address in a block of the profile."""
    if isinstance(block, tuple):
        for number, item in enumerate(block):
            yield from static_addresses(item, f"{dotted}[{number}]")
    elif dataclasses.is_dataclass(block):
        for name in (field.name for field in dataclasses.fields(block)):
            value = getattr(block, name)
            if name == "addresses":
                yield from ((f"{dotted}.addresses[{number}]", text) for number, text in enumerate(value))
            else:
                yield from static_addresses(value, f"{dotted}.{name}")


def is_dynamic(block: Any) -> bool:
    """Whether an interface in a block of the profile gets its address by DHCP."""
    if isinstance(block, tuple):
        return any(is_dynamic(item) for item in block)
    if not dataclasses.is_dataclass(block):
        return False
    values = {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
    return values.get("dhcp") is True or any(is_dynamic(value) for value in values.values())

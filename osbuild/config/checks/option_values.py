"""The values that options of K3s and flags of Kubernetes' programs accept: one table, by name.

Options that are not in the table accept any value. Sources: K3s' CLI reference, the reference pages of Kubernetes'
programs, and Go's `strconv.ParseBool` and `time.ParseDuration`, with which K3s and Kubernetes parse.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from osbuild.config.scalars import find_nearest
from osbuild.shared.interface_names import name_problem
from osbuild.shared.upstream_options import FLANNEL_BACKENDS

SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
BOOLEAN = re.compile(r"1|t|T|TRUE|true|True|0|f|F|FALSE|false|False")
DURATION = re.compile(r"0|([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+")


@dataclass(frozen=True)
class OptionType:
    """A type of values: whether a text is one, what is expected, and an example."""

    accepts: Callable[[str], bool]
    form: str
    example: str
    choices: tuple[str, ...] = ()


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_domain(text: str) -> bool:
    """Whether `text` is a domain as kubeadm requires it for a cluster (apimachinery, IsDNS1123Subdomain)."""
    parts_fit = all(len(label) <= 63 for label in text.split("."))
    return len(text) <= 253 and parts_fit and SUBDOMAIN.fullmatch(text) is not None


def is_port_range(text: str) -> bool:
    """Whether `text` is `FIRST-LAST`, `FIRST+COUNT` or one port (apimachinery, ParsePortRange)."""
    match = re.fullmatch(r"([0-9]{1,5})(?:([-+])([0-9]{1,5}))?", text)
    if match is None:
        return False
    first, last = int(match[1]), int(match[3] or match[1])
    last += first if match[2] == "+" else 0
    return 1 <= first <= last <= 65535


def number(least: int = 0, most: int | None = None) -> OptionType:
    """The type of whole numbers from `least` to `most`."""

    def accepts(text: str) -> bool:
        return WHOLE_NUMBER.fullmatch(text) is not None and least <= int(text) and (most is None or int(text) <= most)

    form = f"a whole number from {least}" + ("" if most is None else f" to {most}")
    return OptionType(accepts, form, str(least if most is None else most))


def one_of(*choices: str) -> OptionType:
    """The type of an enumeration."""
    return OptionType(choices.__contains__, f"one of: {', '.join(choices)}", choices[0], choices)


FLAG = OptionType(lambda text: BOOLEAN.fullmatch(text) is not None, "`true` or `false`", "true")
PORT = OptionType(number(1, 65535).accepts, "a port from 1 to 65535", "6443")
PORT_OR_ZERO = OptionType(number(0, 65535).accepts, "a port from 1 to 65535, or 0", "6443")
ADDRESS = OptionType(is_address, "an IP address", "192.0.2.5")
ADDRESSES = OptionType(lambda text: all(map(is_address, text.split(","))), "IP addresses", "192.0.2.5")
DOMAIN = OptionType(is_domain, "a domain in lower case", "cluster.local")
PORT_RANGE = OptionType(is_port_range, "a range of ports", "30000-32767")
TIME = OptionType(lambda text: DURATION.fullmatch(text) is not None, "a duration with its unit", "30s")
MODE = OptionType(lambda text: re.fullmatch(r"[0-7]{3,4}", text) is not None, "a file mode in octal", "0600")
INTERFACE = OptionType(lambda text: name_problem(text, assigned=False) is None, "the name of an interface", "eth0")
# Older versions of K3s take options after the name.
BACKEND = OptionType(
    lambda text: text.partition("=")[0] in FLANNEL_BACKENDS,
    f"one of: {', '.join(FLANNEL_BACKENDS)}",
    "vxlan",
    FLANNEL_BACKENDS,
)

OPTIONS = {
    **dict.fromkeys(("https-listen-port", "lb-server-port"), PORT),
    **dict.fromkeys(("supervisor-port", "apiserver-port", "advertise-port"), PORT_OR_ZERO),
    **dict.fromkeys(("bind-address", "apiserver-bind-address"), ADDRESS),
    **dict.fromkeys(("etcd-snapshot-retention", "etcd-s3-retention", "v"), number()),
    **dict.fromkeys(("etcd-s3-timeout", "etcd-snapshot-reconcile-interval"), TIME),
    **dict.fromkeys(
        (
            "tls-san-security", "enable-pprof", "supervisor-metrics", "flannel-ipv6-masq", "flannel-external-ip",
            "multi-cluster-cidr", "cluster-init", "cluster-reset", "kine-tls", "secrets-encryption",
            "etcd-expose-metrics", "etcd-disable-snapshots", "etcd-snapshot-compress", "etcd-s3",
            "etcd-s3-skip-ssl-verify", "etcd-s3-insecure", "disable-scheduler", "disable-cloud-controller",
            "disable-kube-proxy", "disable-network-policy", "disable-helm-controller", "disable-agent",
            "disable-apiserver", "disable-controller-manager", "disable-etcd", "disable-apiserver-lb",
            "disable-default-registry-endpoint", "embedded-registry", "nonroot-devices", "protect-kernel-defaults",
            "selinux", "prefer-bundled-bin", "debug", "alsologtostderr",
        ),
        FLAG,
    ),
    "node-external-ip": ADDRESSES,
    "cluster-domain": DOMAIN,
    "service-node-port-range": PORT_RANGE,
    "write-kubeconfig-mode": MODE,
    "flannel-iface": INTERFACE,
    "flannel-backend": BACKEND,
    "egress-selector-mode": one_of("agent", "cluster", "pod", "disabled"),
    "secrets-encryption-provider": one_of("aescbc", "secretbox"),
    "etcd-s3-bucket-lookup-type": one_of("auto", "dns", "path"),
}  # fmt: skip
"""Entries of `kubernetes.config`. `cluster-cidr` and the like are in `cluster_ranges`."""

PERCENT = number(0, 100)
LOG_LEVEL = {"v": number()}
FLAGS: dict[str, dict[str, OptionType]] = {
    "kubelet-arg": {
        **LOG_LEVEL,
        **dict.fromkeys(("max-pods", "pods-per-core", "kube-api-burst", "registry-burst", "event-burst"), number()),
        **dict.fromkeys(("image-gc-high-threshold", "image-gc-low-threshold"), PERCENT),
        **dict.fromkeys(("read-only-port", "healthz-port"), PORT_OR_ZERO),
        **dict.fromkeys(("address", "healthz-bind-address"), ADDRESS),
        **dict.fromkeys(
            (
                "node-status-update-frequency", "sync-frequency", "streaming-connection-idle-timeout",
                "runtime-request-timeout", "minimum-image-ttl-duration", "eviction-pressure-transition-period",
                "file-check-frequency",
            ),
            TIME,
        ),
        **dict.fromkeys(
            (
                "fail-swap-on", "serialize-image-pulls", "protect-kernel-defaults", "anonymous-auth", "cgroups-per-qos",
                "cpu-cfs-quota", "make-iptables-util-chains", "rotate-certificates",
            ),
            FLAG,
        ),
        "port": PORT,
        "container-log-max-files": number(2),
        "cgroup-driver": one_of("systemd", "cgroupfs"),
        "cpu-manager-policy": one_of("none", "static"),
        "memory-manager-policy": one_of("None", "Static"),
        "topology-manager-policy": one_of("none", "best-effort", "restricted", "single-numa-node"),
        "topology-manager-scope": one_of("container", "pod"),
    },
    "kube-apiserver-arg": {
        **LOG_LEVEL,
        **dict.fromkeys(("max-requests-inflight", "max-mutating-requests-inflight"), number()),
        **dict.fromkeys(("audit-log-maxage", "audit-log-maxbackup", "audit-log-maxsize"), number()),
        **dict.fromkeys(("event-ttl", "request-timeout"), TIME),
        **dict.fromkeys(("anonymous-auth", "profiling", "enable-aggregator-routing"), FLAG),
        "bind-address": ADDRESS,
        "secure-port": PORT,
        "service-node-port-range": PORT_RANGE,
    },
    "kube-controller-manager-arg": {
        **LOG_LEVEL,
        "bind-address": ADDRESS,
        "secure-port": PORT_OR_ZERO,
        "node-cidr-mask-size": number(1, 128),
        "terminated-pod-gc-threshold": number(),
        **dict.fromkeys(("node-monitor-period", "node-monitor-grace-period"), TIME),
    },
    "kube-scheduler-arg": {**LOG_LEVEL, "bind-address": ADDRESS, "secure-port": PORT_OR_ZERO},
    "kube-proxy-arg": {
        **LOG_LEVEL,
        "bind-address": ADDRESS,
        "proxy-mode": one_of("iptables", "ipvs", "nftables"),
        **dict.fromkeys(("conntrack-max-per-core", "conntrack-min"), number()),
    },
}  # fmt: skip
"""Flags of the programs, by the entry of `kubernetes.config` that passes them."""


def value_problem(kind: OptionType | None, text: str) -> tuple[str, str] | None:
    """Return what is expected instead of `text`, and the hint; None if the value is valid or its type not known."""
    if kind is None or kind.accepts(text):
        return None
    return kind.form, f"write a value such as `{find_nearest(text, kind.choices) or kind.example}`"

"""Checks the labels and taints of a node, as the kubelet and the API server do."""

import re
from collections.abc import Callable

from osbuild.config.checks.option_values import SUBDOMAIN
from osbuild.config.document import quote_text
from osbuild.config.profile import LABEL, KubernetesSettings
from osbuild.shared.errors import Error

Where = Callable[..., str]

KUBELET_LABELS = (
    "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region", "node.kubernetes.io/instance-type", "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)  # fmt: skip
"""The only labels in Kubernetes' own namespaces that a node may give itself (k8s.io/kubelet, well_known_labels.go)."""
PLATFORM = {"kubernetes.io/os": ("linux",), "kubernetes.io/arch": ("amd64", "arm64", "arm")}
"""The values of an image of these labels. One profile may be for several architectures."""
KUBELET_NAMESPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")


def key_problem(key: str) -> str | None:
    """Say why `key` is not the name of a label or taint (apimachinery, IsQualifiedName); None if it is one."""
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return "it has more than one `/`"
    if slash and (len(prefix) > 253 or not SUBDOMAIN.fullmatch(prefix)):
        return "the part before the `/` is not a DNS name in lower case"
    if not name or not re.fullmatch(LABEL, name):
        return "the name has 1 to 63 letters, digits, `.`, `_` and `-`, and begins and ends with a letter or digit"
    return None


def is_reserved_label(key: str) -> bool:
    """Whether the kubelet refuses to give this label to its own node (cmd/kubelet/app/options)."""
    namespace = key.partition("/")[0] if "/" in key else ""
    is_kubernetes_suffix = any(f".{namespace}".endswith(f".{suffix}") for suffix in ("kubernetes.io", "k8s.io"))
    allowed = any(f".{namespace}".endswith(f".{suffix}") for suffix in KUBELET_NAMESPACES)
    return is_kubernetes_suffix and not allowed and key not in KUBELET_LABELS


def check_labels(settings: KubernetesSettings, where: Where) -> None:
    """Raise `Error` for the first label that the kubelet or the API server refuses, or that no image can have."""
    for key in settings.labels:
        position = where(f"kubernetes.labels.{key}")
        if reason := key_problem(key):
            raise Error(
                f"found the label {quote_text(key)}: {reason}", where=position, hint="write one like `example.com/zone`"
            )
        if is_reserved_label(key):
            message = f"found the label {quote_text(key)}, which Kubernetes does not let a node give to itself"
            examples = "`topology.kubernetes.io/zone`, `node.kubernetes.io/NAME`, or a domain of your own"
            hint = f"write {examples}; or set it from outside: `kubectl label node NODE {key}=…`"
            raise Error(message, where=position, hint=hint)
        value = settings.labels[key]
        if (allowed := PLATFORM.get(key.removeprefix("beta."))) and value not in allowed:
            message = f"found {quote_text(value)} for the label `{key}`, which the kubelet sets to that of the node"
            hint = "remove it: with another value, no pod that asks for the node's platform would run"
            raise Error(message, where=position, hint=hint)


def check_taints(settings: KubernetesSettings, where: Where) -> None:
    """Raise `Error` for the first taint that the kubelet refuses, or that is written twice."""
    seen: dict[tuple[str, str], int] = {}
    for number, text in enumerate(settings.taints):
        position = where(f"kubernetes.taints[{number}]")
        left, _, effect = text.rpartition(":")
        key, _, value = left.partition("=")
        if reason := key_problem(key):
            raise Error(
                f"found the taint {quote_text(text)}: {reason}",
                where=position,
                hint="write `example.com/name=value:effect`",
            )
        if not re.fullmatch(LABEL, value):
            message = f"found the taint {quote_text(text)} with the value {quote_text(value)}"
            hint = (
                "a value has at most 63 letters, digits, `.`, `_` and `-`, and begins and ends with a letter or digit"
            )
            raise Error(message, where=position, hint=hint)
        if (key, effect) in seen:
            message = f"found two taints with the key {quote_text(key)} and the effect {effect}"
            hint = f"the other is at {where(f'kubernetes.taints[{seen[key, effect]}]')}: keep one of them"
            raise Error(message, where=position, hint=hint)
        seen[key, effect] = number

"""Checks of the CIS Kubernetes Benchmark v1.8 on a server node, by their section; docs/cis.md has all sections.

They read what the programs really use: the arguments of the control plane, the kubelet's own answer about its
configuration (`configz`), and the owners and modes of files.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.distributions import DistributionUnderTest
from support.nodes import Node

DATA = "/var/lib/kubernetes"
FOLDERS = (DATA, "/run/edge-osbuild/kubernetes")
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
READ_AUDIT_POLICY = "cat /run/edge-osbuild/kubernetes/audit-policy.json"
# Files by distribution, as regular expressions of whole paths.
ADMIN = {"upstream": rf"{DATA}/admin\.conf", "k3s": rf"{DATA}/server/cred/admin\.kubeconfig"}
MANAGER = {"upstream": rf"{DATA}/controller-manager\.conf", "k3s": rf"{DATA}/server/cred/controller\.kubeconfig"}
SCHEDULER = {"upstream": rf"{DATA}/scheduler\.conf", "k3s": rf"{DATA}/server/cred/scheduler\.kubeconfig"}
PROXY = {"upstream": rf"{DATA}/kube-proxy\.conf", "k3s": rf"{DATA}/agent/kubeproxy\.kubeconfig"}
KUBELET = {"upstream": rf"{DATA}/kubelet\.conf", "k3s": rf"{DATA}/agent/kubelet\.kubeconfig"}
KUBELET_CONFIG = {
    "upstream": r"/run/edge-osbuild/kubernetes/kubelet\.json",
    "k3s": rf"{DATA}/agent/etc/kubelet\.conf\.d/.*",
}
PKI = {"upstream": rf"{DATA}/pki(/.*)?", "k3s": rf"{DATA}/server/tls(/.*)?"}
KEYS = {"upstream": rf"{DATA}/pki/.*\.key", "k3s": rf"{DATA}/server/tls/.*\.key"}
DATASTORE = {name: rf"{DATA}/server/db" for name in ADMIN}
WEAK = re.compile(r"_CBC_|_RC4_|^TLS_RSA_|3DES")


@dataclass(frozen=True)
class SecuritySettings:
    """What was read from a node. `arguments` are those of each program; `files` are (mode, owner) by path."""

    distribution: str
    arguments: dict[str, dict[str, str]]
    kubelet: dict[str, Any]
    files: dict[str, tuple[int, str]]
    audit_policy: dict[str, Any]

    @property
    def api(self) -> dict[str, str]:
        return self.arguments["kube-apiserver"]

    def plugins(self) -> set[str]:
        """The admission plugins that are turned on in addition to the defaults."""
        return set(self.api.get("enable-admission-plugins", "").split(","))

    def matching(self, patterns: dict[str, str]) -> dict[str, tuple[int, str]]:
        """The files of this distribution that match, at least one."""
        matching = {path: row for path, row in self.files.items() if re.fullmatch(patterns[self.distribution], path)}
        assert matching, f"no file {patterns[self.distribution]}"
        return matching

    def private(self, patterns: dict[str, str]) -> bool:
        """Whether only the owner can use the files."""
        return all(mode & 0o077 == 0 for mode, _ in self.matching(patterns).values())

    def of_root(self, patterns: dict[str, str]) -> bool:
        return all(owner == "root:root" for _, owner in self.matching(patterns).values())


def read_settings(node: Node, distribution: DistributionUnderTest) -> SecuritySettings:
    """Read the settings of a running server node."""
    name = node.kubectl("get nodes -o jsonpath={.items[0].metadata.name}").strip()
    configz = json.loads(node.kubectl(f"get --raw /api/v1/nodes/{name}/proxy/configz"))
    lines = node.run(f"find {' '.join(FOLDERS)} -maxdepth 4 -printf '%m %u:%g %p\\n'").splitlines()
    rows = (line.split(" ", 2) for line in lines)
    programs = PROGRAMS if distribution.name == "upstream" else (*PROGRAMS, "kubelet")
    return SecuritySettings(
        distribution.name,
        {program: read_arguments(node, distribution, program) for program in programs},
        configz["kubeletconfig"],
        {path: (int(mode, 8), owner) for mode, owner, path in rows},
        json.loads(node.run(READ_AUDIT_POLICY)),
    )


def read_arguments(node: Node, distribution: DistributionUnderTest, program: str) -> dict[str, str]:
    """Return the arguments of a program of the control plane without dashes; of repeated ones the last."""
    if distribution.name == "upstream":
        plan = json.loads(node.run("cat /run/edge-osbuild/kubernetes/server.json"))
        words: list[str] = plan["programs"][program]
    else:
        log = node.run(f"journalctl --boot --unit={distribution.units[0]} --output=cat --grep='Running {program} '")
        words = shlex.split(log.splitlines()[-1].partition(f"Running {program} ")[2].rstrip('"'))
    return {name.removeprefix("--"): value for name, _, value in (word.partition("=") for word in words)}


Check = Callable[[SecuritySettings], bool]
CHECKS: dict[str, Check] = {
    "1.1.11": lambda node: node.private(DATASTORE),
    "1.1.13": lambda node: node.private(ADMIN),
    "1.1.14": lambda node: node.of_root(ADMIN),
    "1.1.15": lambda node: node.private(SCHEDULER),
    "1.1.16": lambda node: node.of_root(SCHEDULER),
    "1.1.17": lambda node: node.private(MANAGER),
    "1.1.18": lambda node: node.of_root(MANAGER),
    "1.1.19": lambda node: node.of_root(PKI),
    "1.1.21": lambda node: node.private(KEYS),
    "1.2.2": lambda node: "token-auth-file" not in node.api,
    "1.2.4": lambda node: node.api.keys() >= {"kubelet-client-certificate", "kubelet-client-key"},
    "1.2.5": lambda node: "kubelet-certificate-authority" in node.api,
    "1.2.6": lambda node: "AlwaysAllow" not in node.api["authorization-mode"],
    "1.2.7": lambda node: "Node" in node.api["authorization-mode"].split(","),
    "1.2.8": lambda node: "RBAC" in node.api["authorization-mode"].split(","),
    "1.2.10": lambda node: "AlwaysAdmit" not in node.plugins(),
    "1.2.13": lambda node: "ServiceAccount" not in node.api.get("disable-admission-plugins", ""),
    "1.2.14": lambda node: "NamespaceLifecycle" not in node.api.get("disable-admission-plugins", ""),
    "1.2.15": lambda node: "NodeRestriction" in node.plugins(),
    "1.2.16": lambda node: node.api["profiling"] == "false",
    "1.2.17": lambda node: node.api["audit-log-path"].startswith("/var/"),
    "1.2.18": lambda node: int(node.api["audit-log-maxage"]) >= 30,
    "1.2.19": lambda node: int(node.api["audit-log-maxbackup"]) >= 10,
    "1.2.21": lambda node: "request-timeout" not in node.api,
    "1.2.22": lambda node: node.api.get("service-account-lookup", "true") == "true",
    "1.2.23": lambda node: "service-account-key-file" in node.api,
    "1.2.25": lambda node: node.api.keys() >= {"tls-cert-file", "tls-private-key-file"},
    "1.2.26": lambda node: "client-ca-file" in node.api,
    "1.2.28": lambda node: "encryption-provider-config" in node.api,
    "1.2.30": lambda node: not any(WEAK.search(suite) for suite in node.api["tls-cipher-suites"].split(",")),
    "1.3.1": lambda node: int(node.arguments["kube-controller-manager"]["terminated-pod-gc-threshold"]) <= 12500,
    "1.3.2": lambda node: node.arguments["kube-controller-manager"]["profiling"] == "false",
    "1.3.3": lambda node: node.arguments["kube-controller-manager"]["use-service-account-credentials"] == "true",
    "1.3.4": lambda node: "service-account-private-key-file" in node.arguments["kube-controller-manager"],
    "1.3.5": lambda node: "root-ca-file" in node.arguments["kube-controller-manager"],
    "1.3.6": lambda node: (
        "RotateKubeletServerCertificate=false" not in node.arguments["kube-controller-manager"].get("feature-gates", "")
    ),
    "1.3.7": lambda node: listens_on_loopback(node.arguments["kube-controller-manager"]),
    "1.4.1": lambda node: node.arguments["kube-scheduler"]["profiling"] == "false",
    "1.4.2": lambda node: listens_on_loopback(node.arguments["kube-scheduler"]),
    "3.2.1": lambda node: node.api["audit-policy-file"] == READ_AUDIT_POLICY.removeprefix("cat "),
    "3.2.2": lambda node: node.audit_policy["rules"][-1] == {"level": "Metadata"},
    "4.1.3": lambda node: node.private(PROXY),
    "4.1.4": lambda node: node.of_root(PROXY),
    "4.1.5": lambda node: node.private(KUBELET),
    "4.1.6": lambda node: node.of_root(KUBELET),
    "4.1.8": lambda node: node.of_root(PKI),
    "4.1.9": lambda node: node.private(KUBELET_CONFIG),
    "4.1.10": lambda node: node.of_root(KUBELET_CONFIG),
    "4.2.1": lambda node: node.kubelet["authentication"]["anonymous"]["enabled"] is False,
    "4.2.2": lambda node: node.kubelet["authorization"]["mode"] == "Webhook",
    "4.2.3": lambda node: node.kubelet["authentication"]["x509"]["clientCAFile"].startswith(DATA),
    "4.2.4": lambda node: node.kubelet.get("readOnlyPort", 0) == 0,
    "4.2.5": lambda node: node.kubelet["streamingConnectionIdleTimeout"] == "5m0s",
    "4.2.6": lambda node: node.kubelet["makeIPTablesUtilChains"] is True,
    "4.2.8": lambda node: node.kubelet["eventRecordQPS"] >= 0,
    "4.2.9": lambda node: node.kubelet["tlsCertFile"].startswith(DATA),
    "4.2.11": lambda node: node.kubelet.get("featureGates", {}).get("RotateKubeletServerCertificate") is not False,
    "4.2.12": lambda node: not any(WEAK.search(suite) for suite in node.kubelet["tlsCipherSuites"]),
    "4.2.13": lambda node: 0 < node.kubelet["podPidsLimit"] <= 4096,
    # The kubelet's answer does not contain the flag, which K3s uses.
    "5.7.2": lambda node: node.kubelet["seccompDefault"] or node.arguments["kubelet"]["seccomp-default"] == "true",
}


def listens_on_loopback(arguments: dict[str, str]) -> bool:
    """Whether a program has no port, or one for this node only."""
    return arguments.get("secure-port") == "0" or arguments.get("bind-address") == "127.0.0.1"

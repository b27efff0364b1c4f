"""`edge-agent kubernetes prepare`: run before every start of Kubernetes, makes all that its units read.

Everything below /run is made anew from the settings; keys and certificates, on the data partition, are kept as long
as they are right.
"""

import ipaddress
import re
import subprocess
from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import k3s, tokens, upstream, versions
from osbuild.agent.kubernetes.settings import API_PORT, Settings, load, write, write_arguments, write_json
from osbuild.agent.kubernetes.upstream import Paths
from osbuild.agent.system import System

MANIFESTS = ("usr/lib/edge-osbuild/manifests", "etc/edge-osbuild/manifests")
PKI = "usr/lib/edge-osbuild/edge-pki"


def local_addresses(settings: Settings, table: Path = Path("/proc/net/fib_trie")) -> list[str]:
    """IPv4 addresses of this host from the kernel's table, without loopback's and the pods' own."""
    pods = ipaddress.ip_network(settings.cluster_cidr)
    found: set[str] = set()
    last = ""
    for line in table.read_text().splitlines():
        if match := re.search(r"\|-- (\S+)", line):
            last = match[1]
        elif "/32 host LOCAL" in line:
            address = ipaddress.ip_address(last)
            if not address.is_loopback and address not in pods:
                found.add(last)
    return sorted(found)


def name_itself(root: Path, settings: Settings) -> None:
    """Have the node's name in /etc/hosts: the kubelet looks it up, and without a network no name server answers."""
    hosts = root / "etc/hosts"
    text = hosts.read_text() if hosts.exists() else "127.0.0.1\tlocalhost\n"
    if not re.search(rf"^[^#\n]*\s{re.escape(settings.node_name)}(\s|$)", text, re.MULTILINE):
        hosts.write_text(f"{text.rstrip()}\n127.0.1.1\t{settings.node_name}\n")


def manifests(root: Path) -> list[Path]:
    """The manifests of image and seed, sorted by name within each."""
    return [
        path
        for folder in MANIFESTS
        for path in sorted((root / folder).glob("*"))
        if path.suffix in (".yaml", ".yml", ".json")
    ]


def make_keys(root: Path, plan: Path) -> bool:
    """Run the PKI program; True if it made anything."""
    done = subprocess.run([root / PKI, plan], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode:
        hint = "they are kept in /var/lib/kubernetes/pki: put back what is missing there, or damaged"
        raise Problem(f"keys could not be made: {done.stderr.strip()}", hint=hint)
    return bool(done.stdout)


def server(settings: Settings, paths: Paths) -> bool:
    """Files of the control plane. True if keys or certificates are new."""
    plan = paths.run / "pki.json"
    write_json(plan, upstream.pki_plan(settings, paths, local_addresses(settings)))
    changed = make_keys(paths.root, plan)
    release = versions.running(System(paths.root))
    minor = release.minor if release else max(upstream.SINCE.values())
    write_arguments(paths.run / "kine.env", upstream.kine(paths))
    write_arguments(paths.run / "kube-apiserver.env", upstream.apiserver(settings, paths))
    write_arguments(paths.run / "kube-controller-manager.env", upstream.controller_manager(settings, paths, minor))
    write_arguments(paths.run / "kube-scheduler.env", upstream.scheduler(settings, paths))
    # An agent's network file comes from containerd, once the controller manager has given the node its range.
    write_json(paths.root / "etc/cni/net.d/10-edge.conflist", upstream.cni_config(settings))
    (paths.data / "server/db").mkdir(parents=True, exist_ok=True, mode=0o700)
    sources = [*dict.fromkeys(str(path.parent) for path in manifests(paths.root))]
    if settings.token:
        url = f"https://{settings.advertise_address}:{API_PORT}"
        made = tokens.objects(settings.token, url, (paths.pki / "ca.crt").read_text())
        write_json(paths.run / "join/join.json", {"apiVersion": "v1", "kind": "List", "items": made}, 0o600)
        sources.append(f"{paths.run}/join")
    if sources:
        write_arguments(paths.run / "apply.env", [f"--filename={source}" for source in sources])
    return changed


def prepare(root: Path) -> bool:
    """Make the files of this node. True if certificates changed, so that what runs must start again.

    Raises `Problem` where the settings or what is on disk can't be used.
    """
    settings = load(root)
    paths = Paths(root)
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    name_itself(root, settings)
    changed = False
    if (root / "usr/bin/k3s").exists():
        write_json(paths.run / "k3s.yaml", k3s.config(settings), 0o600)
        if settings.role == "server":
            k3s.place_manifests(manifests(root), root / "var/lib/kubernetes/server/manifests")
    elif settings.role != "none":
        for unknown in sorted(settings.config.keys() - set(upstream.KNOWN)):
            print(f"config: the upstream distribution has nothing like `{unknown}`: not used")
        write_arguments(paths.run / "kubelet.env", upstream.kubelet(settings, paths))
        write_json(paths.run / "kubelet.json", upstream.kubelet_config(settings, paths))
        write_json(paths.run / "kube-proxy.json", upstream.proxy_config(settings, paths))
        write_arguments(
            paths.run / "kube-proxy.env",
            [f"--config={paths.run}/kube-proxy.json", *upstream.extra(settings, "kube-proxy-arg")],
        )
        paths.plugins.mkdir(parents=True, exist_ok=True)
        if settings.role == "server":
            changed = server(settings, paths)
        else:
            assert settings.server is not None
            content = upstream.agent_proxy_kubeconfig(settings.server, paths)
            write(paths.data / "kube-proxy.conf", content, 0o600)
    # The units' conditions look at this one, so it comes last.
    write(paths.run / f"role-{settings.role}", "")
    return changed

"""`edge-agent kubernetes prepare`: run before every start of Kubernetes, makes all that its units read.

Everything below /run is made anew from the settings; keys and certificates, on the data partition, are kept as long
as they are right.
"""

import re
from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import k3s, upstream
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import load_settings, report_unknown, write_text
from osbuild.agent.kubernetes.torn_files import remove_torn_files
from osbuild.agent.systemd import systemctl
from osbuild.shared.node_settings import NodeSettings

MANIFESTS = ("usr/lib/edge-osbuild/manifests", "etc/edge-osbuild/manifests")


def write_hosts_entry(root: Path, settings: NodeSettings) -> None:
    """Have the node's name in /etc/hosts: the kubelet looks it up, and without a network no name server answers."""
    hosts = root / "etc/hosts"
    text = hosts.read_text() if hosts.exists() else "127.0.0.1\tlocalhost\n"
    if not re.search(rf"^[^#\n]*\s{re.escape(settings.node_name)}(\s|$)", text, re.MULTILINE):
        hosts.write_text(f"{text.rstrip()}\n127.0.1.1\t{settings.node_name}\n")


def find_manifests(root: Path) -> list[Path]:
    """The manifests of image and seed, sorted by name within each."""
    return [
        path
        for folder in MANIFESTS
        for path in sorted((root / folder).glob("*"))
        if path.suffix in (".yaml", ".yml", ".json")
    ]


def renew_node(root: Path) -> None:
    """Prepare a running node again; Kubernetes starts again if what it runs with can't be used any more.

    Raises `Problem` and `OSError`.
    """
    from osbuild.agent.kubernetes import (
        join,  # imports cost time at boot, and that does not need these
        join_objects,
    )

    changed, settings, paths = prepare_node(root, running=True), load_settings(root), Paths(root)
    if settings.role == "agent" and not (root / "usr/bin/k3s").exists() and paths.credentials.exists():
        if why := join.explain_unusable(settings, paths):
            print(why)
        changed = bool(why)
    if changed:
        systemctl("restart", "--no-block", "kubernetes.target")  # that renews tokens too
        return
    try:
        join_objects.refresh_join_objects(root)
    except (OSError, Problem) as error:  # tokens outlive some days on which that fails
        print(f"the tokens that agents join by are not renewed: {error}")


def prepare_node(root: Path, *, running: bool = False) -> bool:
    """Make the files of this node. True if certificates changed or are to be, so that what runs must start again.

    `running`: Kubernetes runs, and reads some of these files only when it starts.

    Raises `Problem` where the settings or what is on disk can't be used.
    """
    settings = load_settings(root)
    report_unknown(root)
    paths = Paths(root)
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_hosts_entry(root, settings)
    if not running:
        remove_torn_files(paths)
    changed = False
    if (root / "usr/bin/k3s").exists():
        changed = settings.role != "none" and k3s.prepare_k3s(settings, paths, running=running)
        if settings.role == "server":
            k3s.sync_manifests(find_manifests(root), root / "var/lib/kubernetes/server/manifests")
    elif settings.role != "none":
        changed = upstream.prepare_upstream(settings, paths, find_manifests(root))
    # The units' conditions look at this one, so it comes last.
    write_text(paths.run / f"role-{settings.role}", "")
    return changed

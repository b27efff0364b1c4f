"""`edge-agent kubernetes prepare`: writes all files that the units of Kubernetes read, before every start.

Files below /run are written again from the settings. Keys and certificates are on the data partition and kept while
they are valid.
"""

import re
from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import charts, k3s, upstream
from osbuild.agent.kubernetes.name_servers import write_resolv_conf
from osbuild.agent.kubernetes.paths import Paths, is_k3s
from osbuild.agent.kubernetes.settings import load_settings, report_unknown, write_text
from osbuild.agent.kubernetes.torn_files import remove_torn_files
from osbuild.agent.systemd import systemctl
from osbuild.shared.files import read_file, write_file
from osbuild.shared.node_settings import NodeSettings

MANIFESTS = ("usr/lib/edge-osbuild/manifests", "etc/edge-osbuild/manifests")


def write_hosts_entry(root: Path, settings: NodeSettings) -> None:
    """Add the node name to /etc/hosts: the kubelet resolves it, and there may be no name server."""
    hosts = root / "etc/hosts"
    text = read_file(hosts).decode(errors="surrogateescape") if hosts.exists() else "127.0.0.1\tlocalhost\n"
    if not re.search(rf"^[^#\n]*\s{re.escape(settings.node_name)}(\s|$)", text, re.MULTILINE):
        content = f"{text.rstrip()}\n127.0.1.1\t{settings.node_name}\n"
        write_file(hosts, content.encode(errors="surrogateescape"))


def find_manifests(root: Path) -> list[Path]:
    """The manifests of image and seed, sorted by name within each."""
    return [
        path
        for folder in MANIFESTS
        for path in sorted((root / folder).glob("*"))
        if path.suffix in (".yaml", ".yml", ".json")
    ]


def renew_node(root: Path) -> None:
    """Prepare a running node again, and restart Kubernetes if its certificates have changed or are not valid any more.

    Raises `Problem` and `OSError`.
    """
    from osbuild.agent.kubernetes import (
        first_expiry,  # imports take time at boot, and `prepare_node` does not need these
        join,
        join_objects,
    )

    changed, settings, paths = prepare_node(root, running=True), load_settings(root), Paths(root)
    first_expiry.store_first_expiry(root)
    if settings.role == "agent" and not is_k3s(root) and paths.credentials.exists():
        if reason := join.explain_unusable(settings, paths):
            print(reason)
        changed = bool(reason)
    if changed:
        systemctl("restart", "--no-block", "kubernetes.target")  # this also renews the join tokens
        return
    try:
        join_objects.refresh_join_objects(root)
    except (OSError, Problem) as error:  # tokens are valid for a week, so a failure can be repaired
        print(f"the join tokens are not renewed: {error}")


def prepare_node(root: Path, *, running: bool = False) -> bool:
    """Write the files of this node. Returns whether a running Kubernetes has to restart because of certificates.

    `running` means that Kubernetes is running and reads some files only when it starts. Raises `Problem` if the
    settings or files on the disk are not valid.
    """
    settings = load_settings(root)
    report_unknown(root)
    paths = Paths(root)
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_hosts_entry(root, settings)
    write_resolv_conf(settings, paths)
    if not running:
        remove_torn_files(paths)
    changed = False
    if settings.role == "server":
        charts.link_charts(root, paths.charts)
    if is_k3s(root):
        changed = settings.role != "none" and k3s.prepare_k3s(settings, paths, running=running)
        if settings.role == "server":
            k3s.sync_manifests(find_manifests(root), root / "var/lib/kubernetes/server/manifests")
    elif settings.role != "none":
        changed = upstream.prepare_upstream(settings, paths, find_manifests(root))
    # The units have a condition on this file, so it is written last.
    role = paths.run / f"role-{settings.role}"
    for other in set(paths.run.glob("role-*")) - {role}:
        other.unlink()
    write_text(role, "")
    return changed

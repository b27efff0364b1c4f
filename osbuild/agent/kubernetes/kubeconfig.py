"""The administrator's kubeconfig, which a group of users may read: K3s' `write-kubeconfig-group` and `-mode`."""

import os
import re

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_text
from osbuild.agent.system import System
from osbuild.shared.files import read_file
from osbuild.shared.node_settings import NodeSettings

GROUP = "kubernetes"
MODE = "0640"


def publish_kubeconfig(settings: NodeSettings, paths: Paths) -> None:
    """Copy the kubeconfig that `edge-pki` has written to the path where the group may read it. Raises `OSError`."""
    group = settings.option("write-kubeconfig-group", GROUP)
    mode = int(settings.option("write-kubeconfig-mode", MODE), 8)
    # Until the group is set, the file is for root. /var/lib/kubernetes remains root's.
    write_text(paths.kubeconfig, read_file(paths.data / "admin.conf").decode(), mode & 0o700)
    group_id = find_group(System(paths.root), group)
    if group_id is None:
        print(f"kubernetes.config: found no group `{group}`, so no group can read /etc/kubernetes/admin.conf")
    else:
        os.chown(paths.kubeconfig, -1, group_id)
    paths.kubeconfig.chmod(mode)


def find_group(system: System, group: str) -> int | None:
    """Return the id of a group (group(5)), which is named by its name or id; None if it does not exist."""
    for line in system.text("/etc/group").splitlines():
        if (match := re.fullmatch(r"([^:]+):[^:]*:(\d+):.*", line)) and group in match.groups():
            return int(match[2])
    return None

"""The etcd member of a server node of the upstream distribution (osbuild/kubernetes/upstream/etcd.go).

Servers, other servers and the API server present certificates of an authority that only servers have (`etcd-ca`).
"""

from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json
from osbuild.shared.files import read_file
from osbuild.shared.node_settings import NodeSettings

AUTHORITY, SERVER, CLIENT = "etcd-ca", "etcd-server", "etcd-client"  # names of files
CLIENT_PORT = 2379
ANNOTATION = "edge-osbuild/etcd-member"  # of a Node: the name of its member
ROLE = "node-role.kubernetes.io/etcd"


def write_etcd(settings: NodeSettings, paths: Paths) -> Path:
    """Write the settings of the member, and return their path. Raises `OSError`."""
    paths.etcd.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = paths.run / "etcd.json"
    write_json(
        path,
        {
            "node": settings.node_name,
            "folder": str(paths.etcd),
            "address": settings.node_addresses[0],
            "authority": f"{paths.pki}/{AUTHORITY}.crt",
            "pair": f"{paths.pki}/{SERVER}",
            "join": (settings.server or "").rstrip("/"),
            "kubeconfig": str(paths.data / "admin.conf"),
            "snapshots": {
                "folder": str(snapshot_folder(settings, paths)),
                "schedule": "" if settings.flag("etcd-disable-snapshots") else schedule(settings),
                "retention": read_retention(settings),
            },
        },
        0o600,
    )
    return path


def schedule(settings: NodeSettings) -> str:
    """When the server takes snapshots (cron), by default that of K3s."""
    return settings.option("etcd-snapshot-schedule-cron", "0 */12 * * *")


def read_retention(settings: NodeSettings) -> int:
    """How many snapshots of the schedule are kept. Raises `Problem`."""
    text = settings.option("etcd-snapshot-retention", "5")
    if not text.isdecimal() or int(text) < 1:
        where = "kubernetes.config.etcd-snapshot-retention"
        raise Problem(f"{text!r} is not a number above 0", where=where, hint="write how many snapshots to keep")
    return int(text)


def snapshot_folder(settings: NodeSettings, paths: Paths) -> Path:
    """The folder of the snapshots. Raises `Problem`."""
    text = settings.option("etcd-snapshot-dir", "")
    folder = paths.root / text.lstrip("/") if text else paths.data / "server/db/snapshots"
    if ".." in folder.parts or paths.data not in folder.parents:
        where = "kubernetes.config.etcd-snapshot-dir"
        hint = "name a folder there, because the server can write nowhere else"
        raise Problem(f"{text} is not below /var/lib/kubernetes", where=where, hint=hint)
    return folder


def plan_certificates(settings: NodeSettings) -> list[dict[str, Any]]:
    """The certificates of the member and of its client, for the plan of `edge-pki`."""
    server = {
        "name": SERVER,
        "authority": AUTHORITY,
        "common_name": SERVER,
        "server": True,
        "client": True,  # to the other members
        "dns_names": ["localhost"],
        "addresses": sorted({"127.0.0.1", *settings.node_addresses}),
    }
    return [server, {"name": CLIENT, "authority": AUTHORITY, "common_name": CLIENT, "client": True}]


def client_arguments(paths: Paths) -> list[str]:
    """How the API server reaches the member of its server."""
    return [
        f"--etcd-cafile={paths.pki}/{AUTHORITY}.crt",
        f"--etcd-certfile={paths.pki}/{CLIENT}.crt",
        f"--etcd-keyfile={paths.pki}/{CLIENT}.key",
        f"--etcd-servers=https://127.0.0.1:{CLIENT_PORT}",
    ]


def read_member_name(paths: Paths) -> str | None:
    """The name of the member of this server; None if it has none."""
    try:
        return read_file(paths.etcd / "name").decode().strip() or None
    except FileNotFoundError:
        return None

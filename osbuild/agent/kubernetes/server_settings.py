"""The settings of a server of the upstream distribution whose cluster has several servers."""

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import SETTINGS_HINT
from osbuild.agent.system import System
from osbuild.shared.node_settings import NodeSettings
from osbuild.shared.upstream_options import DATABASES

ENDPOINT = "datastore-endpoint"


def must_join(settings: NodeSettings, paths: Paths) -> bool:
    """Whether this server still has to get the keys of its cluster."""
    return bool(settings.server or ENDPOINT in settings.config) and not (paths.pki / "ca.key").exists()


def check_servers(settings: NodeSettings, paths: Paths) -> None:
    """Raise `Problem` if settings for several servers contradict each other, or the data of this node."""
    if not settings.has_servers:
        return
    if not settings.node_ip:
        hint = "set the address at which the other servers reach this one"
        raise Problem("a cluster of several servers needs `node_ip`", where="kubernetes.node_ip", hint=hint)
    others = {"server": settings.server, f"config.{ENDPOINT}": settings.config.get(ENDPOINT)}
    if settings.flag("cluster-init") and (names := [name for name, value in others.items() if value]):
        hint = "`cluster-init` is for the first server of a cluster with etcd: remove one of them"
        message = f"`cluster-init` and `{names[0]}` exclude each other"
        raise Problem(message, where="kubernetes.config.cluster-init", hint=hint)
    if ENDPOINT in settings.config:
        check_endpoint(settings)
    if datastore.find_database(System(paths.root)):
        raise Problem(
            "this server has a cluster of its own in SQLite, which the other datastore would not contain",
            where=datastore.FILE,
            hint="keep it without `cluster-init`, `datastore-endpoint` and `server`, or reset the data of the node",
        )


def check_endpoint(settings: NodeSettings) -> None:
    """Raise `Problem` if the database cannot be used."""
    where = f"kubernetes.config.{ENDPOINT}"
    if not settings.option(ENDPOINT, "").startswith(DATABASES):
        raise Problem(f"the database is none of: {', '.join(DATABASES)}", where=where, hint=SETTINGS_HINT)
    if not settings.token:
        hint = "set it in the profile, by reference, and the same on all servers"
        raise Problem("servers with a database need `token`", where=where, hint=hint)

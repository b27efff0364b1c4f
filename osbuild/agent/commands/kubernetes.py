"""`edge-agent kubernetes`: prepares, joins and checks Kubernetes, and manages the cluster data."""

import argparse
from pathlib import Path

from osbuild.agent.errors import Problem


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    commands.add_parser("prepare", help="write the configuration of Kubernetes' programs (runs at every boot)")
    commands.add_parser("renew", help="renew certificates, and the join token in the cluster (runs every day)")
    joining = commands.add_parser("join", help="let an agent node join its cluster with the join token")
    joining.add_argument("--patience", type=float, default=60, metavar="SECONDS", help="how long to try")
    commands.add_parser(
        "address", help="wait for this node's address and write it to K3s' configuration (runs before K3s)"
    )
    commands.add_parser(
        "tokens", help="let agent nodes join with the configured token, and with no other (runs on servers)"
    )
    token = commands.add_parser("token", help="show, rotate, create or revoke the cluster's join tokens (on a server)")
    kinds = token.add_subparsers(dest="change", required=True, metavar="ACTION")
    kinds.add_parser("show", help="print the tokens in full, and list created ones")
    rotating = kinds.add_parser("rotate", help="replace the token by a random one; nodes that have joined stay nodes")
    rotating.add_argument("--agent", action="store_true", help="the token of agent nodes, not that of the cluster")
    creating = kinds.add_parser("create", help="create a token for agent nodes that expires")
    creating.add_argument("--ttl", default="24h", metavar="TIME", help="such as 30m, 24h, 7d; 0: no end (default: 24h)")
    creating.add_argument("--description", default="", metavar="TEXT", help="what it is for")
    revoking = kinds.add_parser("revoke", help="revoke a created token")
    revoking.add_argument("token", metavar="ID", help="its id, as listed by `show`")
    commands.add_parser("wait", help="wait until this node's API server is ready")
    health = commands.add_parser("health", help="exit with status 0 if this node is Ready, otherwise print the reason")
    health.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long to wait for that")
    commands.add_parser("stop", help="stop the kubelet, then all containers in order (runs at every shutdown)")
    commands.add_parser("uncordon", help="uncordon the node if an update has cordoned it (runs after a healthy boot)")
    commands.add_parser("snapshot", help="take a snapshot of the datastore; Kubernetes may be running")
    listing = commands.add_parser("snapshots", help="list the snapshots of the datastore, newest first")
    listing.add_argument("--json", action="store_true", help="print JSON")
    putting = commands.add_parser("restore", help="replace the datastore with a snapshot; Kubernetes must be stopped")
    putting.add_argument("snapshot", help="name of the snapshot, as listed by `snapshots`")
    commands.add_parser("restore-etcd", help="restore etcd after a rollback (runs before Kubernetes)")


def main(options: argparse.Namespace) -> int:
    """Run one of the actions. Their modules are imported when needed: imports take time at boot.

    Raises `Problem` and `OSError`.
    """
    if options.action == "join":
        from osbuild.agent.kubernetes.join import join_cluster

        join_cluster(options.root, options.patience)
    elif options.action == "health":
        from osbuild.agent.kubernetes.readiness import await_ready

        if reason := await_ready(options.root, options.wait):
            print(reason)
            return 1
    elif options.action == "address":
        from osbuild.agent.kubernetes.address import write_address

        write_address(options.root)
    elif options.action == "tokens":
        from osbuild.agent.kubernetes.join_objects import label_server, refresh_join_objects

        for path in refresh_join_objects(options.root):
            print(f"removed {path}")
        label_server(options.root)
    elif options.action == "token":
        run_token_action(options)
    elif options.action in ("stop", "uncordon", "snapshot", "snapshots", "restore", "restore-etcd"):
        return run_cluster_action(options)
    elif options.action == "wait":
        from osbuild.agent.kubernetes.readiness import await_api

        await_api(options.root)
    else:
        from osbuild.agent.kubernetes.prepare import prepare_node, renew_node

        prepare_node(options.root) if options.action == "prepare" else renew_node(options.root)
    return 0


def run_token_action(options: argparse.Namespace) -> None:
    """Run an action on join tokens. Raises `Problem` and `OSError`."""
    from osbuild.agent.kubernetes import token_command
    from osbuild.agent.kubernetes.rotated_tokens import TokenName

    if options.change == "show":
        print("\n".join(token_command.show_tokens(options.root)))
    elif options.change == "rotate":
        print(token_command.rotate_token(options.root, TokenName.AGENTS if options.agent else TokenName.CLUSTER))
        token_command.restart_units(options.root)
    elif options.change == "create":
        try:
            lifetime = token_command.parse_lifetime(options.ttl)
        except ValueError as error:
            raise Problem(str(error), where="--ttl") from None
        print(token_command.create_token(options.root, lifetime, options.description))
    else:
        token_command.revoke_token(options.root, options.token)


def run_cluster_action(options: argparse.Namespace) -> int:
    """Run an action of `osbuild.agent.cluster`. Raises `Problem` and `OSError`."""
    from osbuild.agent.system import System

    system = System(options.root)
    if options.action == "stop":
        from osbuild.agent.cluster.stop_containers import stop_all

        stop_all(options.root)
        return 0
    if options.action == "uncordon":
        from osbuild.agent.cluster.cluster_data import rejoin

        result = rejoin(system)
        print(
            result.get("problem") or "the node is uncordoned"
            if result.get("uncordoned")
            else "the node was not cordoned by an update"
        )
        return 1 if "problem" in result else 0
    if options.action == "restore-etcd":
        from osbuild.agent.cluster.etcd_rollback import restore_pending

        print(restore_pending(system))
        return 0
    from osbuild.agent.cluster import snapshot_command

    if options.action == "snapshots":
        print("\n".join(snapshot_command.snapshot_lines(system, options.json)))
    else:
        print(
            snapshot_command.take_manually(system)
            if options.action == "snapshot"
            else snapshot_command.restore_manually(system, options.snapshot)
        )
    return 0

"""`edge-agent kubernetes token`: shows, rotates, creates and revokes the join tokens of this server node's cluster."""

import base64
import datetime
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import join_objects, join_protocol, prepare
from osbuild.agent.kubernetes.api import connect_api, explain_failure, quote_path
from osbuild.agent.kubernetes.k3s_command import SERVER_HINT, run_k3s
from osbuild.agent.kubernetes.paths import Paths, is_k3s
from osbuild.agent.kubernetes.rotated_tokens import RotatedToken, TokenName, digest_token, store_rotated
from osbuild.agent.kubernetes.settings import load_configured, load_settings
from osbuild.agent.kubernetes.token_files import AGENT, full_tokens
from osbuild.agent.systemd import systemctl
from osbuild.shared.files import read_file
from osbuild.shared.join_token import created_identifier, format_token, random_text
from osbuild.shared.node_settings import NodeSettings

K3S_GROUP = "system:bootstrappers:k3s:default-node-token"
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class CreatedToken:
    """A created token, without its secret. `expires` is a time in ISO 8601; it is empty for a token without an end."""

    identifier: str
    expires: str
    description: str


def show_tokens(root: Path) -> list[str]:
    """The tokens of this cluster as lines of text, those of servers and agent nodes in full. Raises `Problem`."""
    settings = load_server(root)
    tokens = stored_tokens(root)
    lines = []
    if token := tokens.get("token"):
        lines.append(f"{'servers' if 'agent-token' in tokens else 'servers and agent nodes'}:\n  {token}")
    if token := tokens.get("agent-token"):
        lines.append(f"agent nodes:\n  {token}")
    if not tokens:
        lines.append("no token: no node can join. `edge-agent kubernetes token rotate` creates one")
    created = list_created(root, settings)
    lines += ["created for agent nodes:"] if created else []
    for item in created:
        lines.append(f"  {item.identifier}  {item.expires or 'without an end'}  {item.description}".rstrip())
    return lines


def stored_tokens(root: Path) -> dict[str, str]:
    """The full tokens in the files of the server, by file name, without one that is only a link. Raises `OSError`."""
    folder = Paths(root).data / "server"
    paths = (folder / name for name in ("token", "agent-token"))
    return {path.name: read_file(path).decode().strip() for path in paths if path.exists() and not path.is_symlink()}


def rotate_token(root: Path, name: TokenName) -> str:
    """Replace a token with a random one, and return this in full. The earlier one is not valid any more.

    Nodes that have joined stay nodes. Raises `Problem` and `OSError`.
    """
    settings = load_server(root)
    replaced = digest_token(getattr(load_configured(root), name))
    new = secrets.token_hex(16)
    if is_k3s(root):
        if name is TokenName.AGENTS:
            store_rotated(root, name, RotatedToken(replaced, new))
            return format_token(read_authority(root), f"{AGENT}:{new}")
        # K3s writes the new token into its own files, which count from now on if they have changed.
        store_rotated(root, name, RotatedToken(replaced))
        run_k3s(root, "token", "rotate")
        os.sync()
        return stored_tokens(root)["token"]
    if settings.has_servers:
        if not (old := getattr(settings, name)):
            hint = f"set `kubernetes.{name}` in the seeds of all servers"
            raise Problem("a cluster with several servers needs a token before it can be rotated", hint=hint)
        join_objects.revoke_token(connect_api(root, settings), old)
    store_rotated(root, name, RotatedToken(replaced, new))
    prepare.prepare_node(root, running=True)
    join_objects.refresh_join_objects(root)
    return full_tokens(load_settings(root), read_authority(root))[name.value.replace("_", "-")]


def restart_units(root: Path) -> None:
    """Start what uses a rotated token: K3s accepts it, and refuses the earlier one, from its next start on.

    Raises `Problem`.
    """
    if is_k3s(root):
        systemctl("restart", "--no-block", "k3s-server.service")
    else:
        systemctl("start", "--no-block", "edge-kubernetes-approve.service")


def create_token(root: Path, lifetime: datetime.timedelta | None, description: str) -> str:
    """Make a token for agent nodes with an end, and return it in full. Raises `Problem` and `OSError`."""
    settings = load_server(root)
    if is_k3s(root):
        seconds = int(lifetime.total_seconds()) if lifetime else 0
        kubeconfig = f"--kubeconfig={root}/etc/kubernetes/admin.conf"
        arguments = ("token", "create", kubeconfig, f"--ttl={seconds}s", f"--description={description}")
        return run_k3s(root, *arguments).strip()
    if not settings.join_token:
        hint = "set `kubernetes.token` in the profile, or run `edge-agent kubernetes token rotate`"
        raise Problem("this cluster has no join token, so no node can join", hint=hint)
    identifier, authority = random_text(6), read_authority(root)
    text = f"{identifier}.{random_text(16)}"
    invitation, keys = join_protocol.make_invitation(text)
    offer = join_protocol.JoinOffer(
        purpose=join_protocol.created_purpose(identifier),
        invitation=invitation,
        keys=keys,
        authority=authority.decode(),
        expires=datetime.datetime.now(datetime.UTC) + lifetime if lifetime else None,
        description=description,
    )
    join_objects.apply_objects(connect_api(root, settings), join_protocol.join_objects(offer))
    return format_token(authority, text)


def revoke_token(root: Path, text: str) -> None:
    """Revoke a created token, which is given as its id, short or in full. Raises `Problem` and `OSError`."""
    settings = load_server(root)
    identifier = created_identifier(text.rpartition("::")[2]) or text
    if identifier not in [item.identifier for item in list_created(root, settings)]:
        hint = "`edge-agent kubernetes token show` lists those that exist; `token rotate` replaces the others"
        raise Problem(f"there is no created token {identifier[:6]!r}", hint=hint)
    api = connect_api(root, settings)
    if is_k3s(root):
        paths = [f"{join_objects.SECRETS}/bootstrap-token-{quote_path(identifier)}"]
    else:
        paths = [*join_objects.join_object_paths(api, identifier)]
    for path in paths:
        join_objects.delete_object(api, path)


def list_created(root: Path, settings: NodeSettings) -> list[CreatedToken]:
    """The created tokens that are valid, by id. Raises `Problem`."""
    try:
        items = join_objects.list_bootstrap_tokens(connect_api(root, settings))
    except OSError as error:
        raise Problem(explain_failure(error), hint=SERVER_HINT) from error
    tokens = []
    for item in items:
        data = {name: decode(value) for name, value in (item.get("data") or {}).items()}
        group = data.get("auth-extra-groups", "")
        label = join_objects.created_label(item)
        if group == K3S_GROUP or (label and group == join_protocol.GROUP):
            identifier = label or data.get("token-id", "")
            tokens.append(CreatedToken(identifier, data.get("expiration", ""), data.get("description", "")))
    return sorted(tokens, key=lambda token: token.identifier)


def decode(value: Any) -> str:
    return base64.b64decode(str(value)).decode(errors="replace")


def parse_lifetime(text: str) -> datetime.timedelta | None:
    """The lifetime in a text such as `24h` or `7d`; None for `0`, which means no end. Raises `ValueError`."""
    if text == "0":
        return None
    if not (match := re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)):
        raise ValueError("expected a lifetime such as `30m`, `24h` or `7d`, or `0` for no end")
    return datetime.timedelta(**{UNITS[match[2]]: int(match[1])})


def load_server(root: Path) -> NodeSettings:
    """The settings of this server node. Raises `Problem` on other nodes."""
    settings = load_settings(root)
    if settings.role != "server":
        raise Problem("only a server node has the tokens of its cluster", hint=SERVER_HINT)
    return settings


def read_authority(root: Path) -> bytes:
    """The certificate authority of the cluster, as the full tokens name it. Raises `Problem`."""
    paths = Paths(root)
    path = paths.data / "server/tls/server-ca.crt" if is_k3s(root) else paths.authority
    try:
        return read_file(path)
    except OSError as error:
        raise Problem(f"cannot be read: {error.strerror}", where=str(path), hint=SERVER_HINT) from error

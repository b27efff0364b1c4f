"""The join tokens of a server node, as full tokens in the files of K3s, such as `/var/lib/kubernetes/server/token`."""

from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import SETTINGS_HINT, write_text
from osbuild.shared.files import read_file, replace_link
from osbuild.shared.join_token import format_token, parse_token
from osbuild.shared.node_settings import NodeSettings

# The user in a full token: servers join as one, agent nodes as the other. Each distribution ignores what an agent says.
SERVER, AGENT = "server", "node"


def full_tokens(settings: NodeSettings, authority: bytes) -> dict[str, str]:
    """The full tokens of a server node by file name. `authority` is a file in PEM. Raises `Problem`."""
    texts = {"token": (SERVER, settings.token), "agent-token": (AGENT, settings.agent_token)}
    tokens = {}
    for name, (user, text) in texts.items():
        if text:
            key = f"kubernetes.{name.replace('-', '_')}"
            tokens[name] = format_token(authority, f"{user}:{read_password(text, key)}")
    return tokens


def read_password(text: str, key: str) -> str:
    """The password of the token at `key` in the settings of a server node. Raises `Problem`."""
    try:
        token = parse_token(text)
    except ValueError as error:
        raise Problem(str(error), where=key, hint=SETTINGS_HINT) from None
    if token.identifier:
        hint = f"`openssl rand -hex 16` makes a token; {SETTINGS_HINT}"
        raise Problem("a server cannot have a created token, which has the form `id.secret`", where=key, hint=hint)
    return token.password


def write_token_files(settings: NodeSettings, paths: Paths) -> None:
    """Write the files with the full tokens of a server node of the upstream distribution. Raises `Problem`."""
    folder = paths.data / "server"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    tokens = full_tokens(settings, read_file(paths.authority))
    for name in ("token", "agent-token"):
        path = folder / name
        if text := tokens.get(name):
            if path.is_symlink() or not path.exists() or read_file(path).decode(errors="replace") != text + "\n":
                path.unlink(missing_ok=True)
                write_text(path, text + "\n", 0o600)
        elif "token" in tokens:
            replace_link(path, Path("token"))
        else:
            path.unlink(missing_ok=True)
    if "token" in tokens:
        replace_link(folder / "node-token", Path("token"))
    else:
        (folder / "node-token").unlink(missing_ok=True)

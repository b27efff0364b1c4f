"""The systemd unit of the update server."""

import re
from dataclasses import dataclass
from pathlib import Path

from osbuild.shared.errors import Error

UNIT = "edge-osbuild-serve.service"
KEYRING = "keyring.pem"  # the name of the credential
HIDDEN = ("/home", "/root", "/run/user")  # by ProtectHome=
LEAST_UNPRIVILEGED = 1024
PLAIN = re.compile(r"[]A-Za-z0-9_@%+=:,./[-]+", re.ASCII)  # needs no quotes
# The process needs the network, its state folder, and threads; systemd-analyze(1) rates what it could do otherwise.
TEMPLATE = """\
# Made by `edge-osbuild serve unit`.
[Unit]
Description=Update server
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={command}
{account}
StateDirectory=edge-osbuild-serve
StateDirectoryMode=0700
LoadCredential={keyring}:{keyring_file}
UMask=0077
LimitNOFILE=65536
Restart=on-failure
RestartSec=2
TimeoutStopSec=30

AmbientCapabilities={capabilities}
CapabilityBoundingSet={capabilities}
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers={private_users}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """Where the server listens, its names, the program that is started, the file with the keyring on that machine.

    With `user`, the server runs as this account, otherwise as one that exists while it runs (DynamicUser=).
    """

    program: Path
    host: str
    port: int
    names: tuple[str, ...]
    keyring: Path
    user: str | None = None


def render_unit(settings: UnitSettings) -> str:
    """Return the unit. Raises `Error` if the program would be hidden from it."""
    if any(settings.program.is_relative_to(folder) for folder in HIDDEN):
        hint = "install edge-osbuild elsewhere, such as in /opt/edge-osbuild (python3 -m venv /opt/edge-osbuild)"
        raise Error("a service does not see the home folders of users", where=str(settings.program), hint=hint)
    low = settings.port < LEAST_UNPRIVILEGED
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    arguments = [str(settings.program), "serve", "--listen", f"{host}:{settings.port}", "--log-format", "json"]
    for name in settings.names:
        arguments += ["--name", name]
    quoted = " ".join(quote_argument(argument) for argument in arguments)
    user = settings.user
    return TEMPLATE.format(
        command=f"{quoted} --data ${{STATE_DIRECTORY}} --keyring ${{CREDENTIALS_DIRECTORY}}/{KEYRING}",
        account="DynamicUser=yes" if user is None else f"User={user}\nGroup={user}",
        keyring=KEYRING,
        keyring_file=str(settings.keyring).replace("%", "%%"),
        capabilities="CAP_NET_BIND_SERVICE" if low else "",
        private_users="no" if low else "yes",  # a capability of another user namespace is not valid for ports
    )


def quote_argument(text: str) -> str:
    """Return an argument as ExecStart= reads it (systemd.service(5), "Command lines"). Raises `Error`."""
    if any(not character.isprintable() for character in text):
        raise Error(f"a unit can't have this argument: {text!r}", hint="leave out control characters")
    escaped = text.replace("%", "%%").replace("$", "$$").replace("\\", "\\\\")
    return escaped if PLAIN.fullmatch(text) else '"' + escaped.replace('"', '\\"') + '"'

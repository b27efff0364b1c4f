"""What the seed of a node says about its update server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.maintenance_window import MaintenanceWindows, parse_windows
from osbuild.shared.node_settings import AGENT_FILE, AgentSeed
from osbuild.shared.operator_requests import DEFAULT_KINDS
from osbuild.shared.records import parse_record

TENANT = "DEFAULT"
HINT = "make the seed again from the profile, and apply it"


@dataclass(frozen=True)
class FleetSettings:
    """The node's name on the server `server` (https), whose `authority` is PEM, and the token with which it enrols.

    With `target_token`, it does not enrol, but proves with this token who it is. `requests` are the kinds of requests
    that operators may make; kinds that this version does not know have no effect.
    Soft updates are installed in `windows`, which are in the time zone of this device. `attributes` and `facts` are
    what the profile lets this device report beside the built-in attributes.
    """

    node: str
    server: str
    authority: str
    token: str | None = None
    target_token: str | None = None
    windows: MaintenanceWindows | None = None
    requests: tuple[str, ...] = DEFAULT_KINDS
    attributes: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The address of this device on the server (DDI)."""
        return f"{self.server.rstrip('/')}/{TENANT}/controller/v1/{quote(self.node)}"

    @property
    def authorization(self) -> str:
        """The value of the header Authorization (DDI); empty if the device has a certificate."""
        return f"TargetToken {self.target_token}" if self.target_token else ""


def load_settings(system: System, file: str = AGENT_FILE) -> FleetSettings | None:
    """Return the settings; None if the seed names no server, or no authority for it. Raises `Problem`."""
    try:
        seed = parse_record(AgentSeed, {"node": "", "server": None, "offline": True, **system.json(file)})
    except ValueError as error:
        raise Problem(str(error), where=file, hint=HINT) from error
    if not seed.server or not seed.authority:
        return None
    if not seed.node or urlsplit(seed.server).scheme != "https":
        raise Problem(
            "an update server with an authority needs a node name and an https address", where=file, hint=HINT
        )
    try:
        windows = None if seed.window is None else parse_windows(seed.window)
    except ValueError as error:
        raise Problem(str(error), where=file, hint=HINT) from error
    return FleetSettings(
        seed.node, seed.server, seed.authority, seed.enrolment, seed.token, windows, seed.requests, seed.attributes,
        seed.facts,
    )  # fmt: skip

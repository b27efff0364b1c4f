"""The keys of a profile's `agent` block, a part of the table in profile.py. All of them change only the seed."""

from dataclasses import dataclass, field

from osbuild.config.network import seed_key
from osbuild.shared.device_attributes import NAME_PATTERN, VALUE_PATTERN, DeviceFact
from osbuild.shared.maintenance_window import PATTERN
from osbuild.shared.operator_requests import DEFAULT_KINDS, RequestKind


@dataclass(frozen=True)
class AgentSettings:
    server: str | None = field(
        default=None,
        metadata=seed_key(
            "URL of the update server",
            pattern=r"^https?://[A-Za-z0-9.:\[\]-]+(/[!-~]*)?$",
            form="a URL such as `https://updates.example.com`",
        ),
    )
    offline: bool = field(
        default=True,
        metadata=seed_key("a boot is healthy even if the update server was not reached"),
    )
    authority: str | None = field(
        default=None,
        metadata=seed_key(
            "certificate of the update server's authority (PEM), by reference", secret=True, path="reference",
        ),
    )  # fmt: skip
    enrolment: str | None = field(
        default=None,
        metadata=seed_key("token with which the node enrols", secret=True, path="reference"),
    )
    token: str | None = field(
        default=None,
        metadata=seed_key(
            "target token of the node, for an update server at which nodes do not enrol, such as hawkBit", secret=True,
            path="reference",
        ),
    )  # fmt: skip
    window: str | None = field(
        default=None,
        metadata=seed_key(
            "maintenance windows, in the time zone of the node, in which it installs updates that may wait (soft)",
            pattern=PATTERN, form="weekdays and times such as `Mon-Fri 01:00-04:00; Sat,Sun 22:00-06:00`",
        ),
    )  # fmt: skip
    requests: tuple[str, ...] = field(
        default=tuple(kind.value for kind in DEFAULT_KINDS),
        metadata=seed_key(
            "what operators may request of the node through the update server",
            choices=tuple(kind.value for kind in RequestKind),
        ),
    )
    attributes: dict[str, str] = field(
        default_factory=dict,
        metadata=seed_key(
            "values that the node reports to the update server, such as its site",
            pattern=VALUE_PATTERN, form="one line of at most 128 characters, with no white space at its ends",
            keys=NAME_PATTERN, keys_form="at most 64 letters, digits, `.`, `_` and `-`, beginning with a letter",
        ),
    )  # fmt: skip
    facts: tuple[str, ...] = field(
        default=(),
        metadata=seed_key(
            "what the node reads from its hardware and network, and reports to the update server",
            choices=tuple(fact.value for fact in DeviceFact),
        ),
    )

"""What an update server tells a device (DDI), parsed and checked. Unknown fields are ignored."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

LONGEST_SLEEP = 24 * 3600
SHORTEST_SLEEP = 1
SLEEP = re.compile(r"([0-9]{1,3}):([0-5][0-9]):([0-5][0-9])")
ISO_SLEEP = re.compile(r"P(?:([0-9]{1,4})D)?(?:T(?:([0-9]{1,5})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,8})S)?)?")  # ISO 8601
WINDOWS = {"available": True, "unavailable": False}
DIGEST = re.compile(r"[0-9a-f]{64}")


class InvalidMessage(Exception):
    """An answer of the server is not what the protocol says. The message says which part."""


class Handling(StrEnum):
    """Whether and how strictly a device must download or install."""

    skip = "skip"
    attempt = "attempt"
    forced = "forced"


@dataclass(frozen=True)
class PollAnswer:
    """The answer to a poll: seconds until the next one, and the addresses of what the device must do."""

    sleep: float
    deployment: str | None = None
    cancellation: str | None = None
    confirmation: str | None = None
    attributes: str | None = None
    request: str | None = None


@dataclass(frozen=True)
class Deployment:
    """An update. `action` is its number on the server, `size` in bytes, `sha256` in hexadecimal.

    `window_open` says whether this device is in a maintenance window of the server; None if the update has none.
    """

    action: str
    download: Handling
    update: Handling
    name: str
    version: str
    url: str
    size: int
    sha256: str
    window_open: bool | None = None


def parse_poll(document: dict[str, Any]) -> PollAnswer:
    """Return the answer to a poll. Raises `InvalidMessage`."""
    sleep = text_at(document, "config", "polling", "sleep")
    links = document.get("_links", {})
    if not isinstance(links, dict):
        raise InvalidMessage("`_links` is not an object")
    addresses = {name: text_at(links, name, "href") for name in links if isinstance(links[name], dict)}
    return PollAnswer(
        parse_sleep(sleep), addresses.get("deploymentBase"), addresses.get("cancelAction"),
        addresses.get("confirmationBase"), addresses.get("configData"), addresses.get("request"),
    )  # fmt: skip


def parse_sleep(text: str) -> float:
    """Return a time in seconds, from HH:MM:SS or ISO 8601, between one second and one day. Raises `InvalidMessage`."""
    if match := SLEEP.fullmatch(text):
        hours, minutes, seconds = (int(part) for part in match.groups())
        total = hours * 3600 + minutes * 60 + seconds
    elif (match := ISO_SLEEP.fullmatch(text)) and any(match.groups()):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = days * LONGEST_SLEEP + hours * 3600 + minutes * 60 + seconds
    else:
        raise InvalidMessage(f"the time between two polls is not valid: {text[:40]!r}")
    return float(min(max(total, SHORTEST_SLEEP), LONGEST_SLEEP))


def parse_deployment(document: dict[str, Any]) -> Deployment:
    """Return the only bundle of an update. Raises `InvalidMessage`."""
    deployment = document.get("deployment")
    if not isinstance(deployment, dict):
        raise InvalidMessage("`deployment` is missing")
    chunk = only(deployment, "chunks")
    artifact = only(chunk, "artifacts")
    links = artifact.get("_links", {})
    address = next((text_at(links, name, "href") for name in ("download", "download-http") if name in links), "")
    size, digest = artifact.get("size"), text_at(artifact, "hashes", "sha256")
    if not address or not isinstance(size, int) or size <= 0 or not DIGEST.fullmatch(digest):
        raise InvalidMessage("the artifact has no address, no size or no SHA-256")
    return Deployment(
        text_at(document, "id"), handling(deployment, "download"), handling(deployment, "update"),
        text_at(chunk, "name"), text_at(chunk, "version"), address, size, digest,
        WINDOWS.get(str(deployment.get("maintenanceWindow"))),
    )  # fmt: skip


def parse_cancellation(document: dict[str, Any]) -> str:
    """Return the number of the action that is cancelled. Raises `InvalidMessage`."""
    return text_at(document, "cancelAction", "stopId")


def handling(deployment: dict[str, Any], name: str) -> Handling:
    """Return one of the two handlings of a deployment. Raises `InvalidMessage`."""
    try:
        return Handling(deployment[name])
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidMessage(f"`deployment.{name}` is not skip, attempt or forced") from error


def only(parent: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the only object of a list. Raises `InvalidMessage`."""
    entries = parent.get(name)
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise InvalidMessage(f"`{name}` must have exactly one entry: an update is one bundle")
    entry: dict[str, Any] = entries[0]
    return entry


def text_at(document: dict[str, Any], *names: str) -> str:
    """Return a text in nested objects. Raises `InvalidMessage`."""
    value: Any = document
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise InvalidMessage(f"`{'.'.join(names)}` is not a text")
    return value

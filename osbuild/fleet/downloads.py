"""How many devices download at the same time: those that hold a lease.

A device gets a lease with the offer of an update, and keeps it while it downloads. A device that has begun is never
refused: it may be slow, and it counts again with its next request.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select, update

from osbuild.fleet.actions import UpdateAction
from osbuild.fleet.tables import actions

BEGIN_WITHIN = 120_000  # milliseconds from the offer to the first request
IDLE = 60_000  # milliseconds from the last request until another device may begin


@dataclass
class DownloadLimit:
    """How many devices may download at the same time (None: all), and whose downloads are to be stored."""

    most: int | None = None
    noted: set[int] = field(default_factory=set)  # actions

    def note_download(self, action: int) -> None:
        """Remember that the device of an action downloads now, because a change per request would be slow."""
        if self.most is not None:
            self.noted.add(action)

    def take_noted(self) -> set[int]:
        """Return the actions whose devices have downloaded since the last call."""
        noted, self.noted = self.noted, set()
        return noted


def has_lease(action: UpdateAction, now: int) -> bool:
    """Whether the device of an action may download: it has begun, or was offered the update a short time ago."""
    return action.fetched or (action.lease is not None and action.lease > now)


def count_downloads(connection: Connection, now: int) -> int:
    """Return how many devices download, or may begin to."""
    chosen = select(func.count()).select_from(actions).where(actions.c.lease > now, actions.c.active)
    return int(connection.execute(chosen).scalar_one())


def grant_lease(connection: Connection, action: UpdateAction, most: int, now: int) -> bool:
    """Let a device download, if fewer than `most` do so. Return whether it may."""
    if count_downloads(connection, now) >= most:
        return False
    connection.execute(update(actions).where(actions.c.id == action.id).values(lease=now + BEGIN_WITHIN))
    return True


def renew_leases(connection: Connection, numbers: Collection[int], now: int) -> None:
    """Store that the devices of the actions `numbers` have downloaded a moment ago."""
    changed = update(actions).where(actions.c.id.in_(numbers), actions.c.active)
    connection.execute(changed.values(lease=now + IDLE, fetched=True))


def end_lease(connection: Connection, number: int, now: int) -> None:
    """Let another device begin, because the device of an action has the whole bundle."""
    connection.execute(update(actions).where(actions.c.id == number, actions.c.lease > now).values(lease=now))

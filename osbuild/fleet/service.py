"""What all requests share: the database, the files, the settings of the update server, and who was seen when."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.fleet.authorities import Authority
from osbuild.fleet.bundles import FileStore
from osbuild.fleet.database import Database
from osbuild.fleet.devices import record_contacts
from osbuild.fleet.downloads import DownloadLimit, renew_leases
from osbuild.fleet.request_signer import RequestSigner
from osbuild.fleet.retention import delete_ended_certificates, delete_history

SLEEP = 300  # seconds between two polls of an idle device
CLIENT_TIMEOUT = 60.0  # seconds


def current_milliseconds() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Service:
    """The update server's parts.

    `authority` signs the certificates of devices, `signer` signs requests of operators. Bundles must be signed by a
    certificate in `keyring`. With the token of `gateway_hash` any device may register. Without `signer`, nothing can be
    requested of a device.
    Devices download bundles below `artifact_url`, or from this server. History is kept for `keep_history` milliseconds,
    or for ever. A client has `client_timeout` seconds for a body. `ending` is set when the server stops.
    `streams` counts the open live pages of each session, by its form token.
    """

    database: Database
    files: FileStore
    authority: Authority
    keyring: Path
    sleep: int = SLEEP
    gateway_hash: bytes | None = None
    artifact_url: str | None = None
    keep_history: int | None = None
    clock: Callable[[], int] = current_milliseconds
    contacts: dict[int, tuple[int, str]] = field(default_factory=dict)
    downloads: DownloadLimit = field(default_factory=DownloadLimit)
    signer: RequestSigner | None = None
    client_timeout: float = CLIENT_TIMEOUT
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    streams: Counter[str] = field(default_factory=Counter)

    def note_contact(self, device: int, address: str) -> None:
        """Remember that a device was seen now. `store_contacts` stores it, because a change per poll would be slow."""
        self.contacts[device] = (self.clock(), address)

    async def store_downloads(self) -> None:
        """Store for which actions devices have downloaded since the last call."""
        numbers, now = self.downloads.take_noted(), self.clock()
        if numbers:
            await self.database.change(lambda connection: renew_leases(connection, numbers, now))

    async def trim_history(self) -> None:
        """Delete certificates with which nothing can be proved, and what is older than the history that is kept."""
        await delete_ended_certificates(self.database, self.clock())
        if self.keep_history is not None:
            await delete_history(self.database, self.clock() - self.keep_history)

    async def store_contacts(self) -> None:
        """Store which devices were seen since the last call."""
        contacts = dict(self.contacts)
        self.contacts.clear()
        if contacts:
            await self.database.change(lambda connection: record_contacts(connection, contacts))

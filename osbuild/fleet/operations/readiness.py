"""Whether the update server can do its work now."""

import asyncio

from sqlalchemy import Connection, text

from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service

LEAST_FREE = 64 * 2**20  # bytes
PATIENCE = 5.0  # seconds for the database


async def find_problems(service: Service) -> list[str]:
    """Return why the server is not ready; nothing if it is."""
    problems = []
    if not await database_answers(service):
        problems.append("the database does not answer")
    if service.files.free_space() < LEAST_FREE:
        problems.append(f"the disk is full: less than {LEAST_FREE // 2**20} MiB are free for bundles")
    return problems


async def database_answers(service: Service) -> bool:
    """Whether the database answers, and its changes are committed."""
    if not service.database.is_alive:
        return False
    try:
        async with asyncio.timeout(PATIENCE):
            await service.database.change(_select_one)  # a transaction that changes nothing flushes no disk
    except (TimeoutError, Refused):
        return False
    return True


def _select_one(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))

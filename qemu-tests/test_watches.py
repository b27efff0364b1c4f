"""Lists and watches of a real API server on kine, on this host, while objects change.

A list without `resourceVersion` must contain every change up to its own revision, and a watch from this revision every
change after it (API concepts, "Resource versions"). Otherwise a controller never hears of a change.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.control_plane import CONFIGMAPS, RELEASES, ControlPlane, make_configmap, watch_configmaps

from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer

SECONDS = 20.0
NAMES = [f"watched-{number}" for number in range(8)]
READERS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    plane = ControlPlane(tmp_path_factory.mktemp("plane"))
    with plane.run_version(RELEASES[0].version) as (admin, _):
        yield admin


@dataclass
class Record:
    """What was written and read: the revisions of each object, and lists as their revision and that of each object."""

    written: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in NAMES})
    lists: list[tuple[int, dict[str, int]]] = field(default_factory=list)


def read_revisions(items: list[dict[str, Any]]) -> dict[str, int]:
    metadata = (item["metadata"] for item in items)
    return {data["name"]: int(data["resourceVersion"]) for data in metadata if data["name"] in NAMES}


@pytest.fixture(scope="module")
def record(server: ApiServer) -> Record:
    """Change objects and list them at the same time."""
    result, stop = Record(), threading.Event()
    for name in NAMES:
        make_configmap(server, name)

    def write(names: list[str]) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            for name in names:
                changed = server.call(
                    "PATCH", f"{CONFIGMAPS}/{name}", {"data": {"value": str(count)}}, kind=MERGE_PATCH
                )
                result.written[name].append(int(changed["metadata"]["resourceVersion"]))

    def read() -> None:
        while not stop.is_set():
            answer = server.call("GET", CONFIGMAPS)
            result.lists.append((int(answer["metadata"]["resourceVersion"]), read_revisions(answer["items"])))

    threads = [threading.Thread(target=write, args=(NAMES[start::2],)) for start in range(2)]
    threads += [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    return result


def test_a_list_contains_all_changes_up_to_its_revision(record: Record) -> None:
    assert len(record.lists) > 50 and all(record.written.values())
    stale = [
        (revision, name, found[name], newest)
        for revision, found in record.lists
        for name in NAMES
        if (newest := max((number for number in record.written[name] if number <= revision), default=0)) > found[name]
    ]
    assert not stale, f"{len(stale)} in {len(record.lists)} lists, such as (list, object, found, newest): {stale[:3]}"


def test_a_watch_from_a_list_gets_all_later_changes(server: ApiServer, record: Record) -> None:
    revision, found = record.lists[len(record.lists) // 2]
    seen: dict[str, list[int]] = {name: [found[name]] for name in NAMES}
    for event in watch_configmaps(server, revision):
        metadata = event["object"]["metadata"]
        if metadata["name"] in seen:
            seen[metadata["name"]].append(int(metadata["resourceVersion"]))
    for name, revisions in seen.items():
        assert revisions[1:] == [number for number in record.written[name] if number > revision]

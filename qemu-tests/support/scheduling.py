"""A pytest plugin: each process of pytest-xdist runs one whole group of tests after the other (`--dist loadgroup`)."""

# pytest-xdist 3.8 ignores its own mark `xdist_group` with pytest 9.2, without a warning (its issue 1386). So the
# processes, which collect the tests, tell the scheduler of the main process the groups in a file.

import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from osbuild.host.output import write_output
from osbuild.rootfs.installer.mounts import enter_private_namespace
from support.groups import group_of, rank_group

GROUPS = "edge_test_groups"  # a key of a process's input: the path of the file
FILE = pytest.StashKey[Path]()


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist has no types
    """A process gets its next group while at most two tests of its last group are left."""

    def __init__(self, config: pytest.Config, log: Any, path: Path) -> None:
        super().__init__(config, log)
        self.path = path

    @cached_property
    def groups(self) -> Mapping[str, str]:
        """The groups of all tests, by node id."""
        names: dict[str, str] = json.loads(self.path.read_text())
        return names

    def _split_scope(self, nodeid: str) -> str:
        return self.groups[nodeid]


def groups_file(config: pytest.Config) -> Path:
    """Return the path of the file, in a folder that is removed when the main process ends."""
    if FILE not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="edge-test-groups-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        config.stash[FILE] = folder / "groups.json"
    return config.stash[FILE]


def worker_input(config: pytest.Config) -> Mapping[str, Any] | None:
    """Return the input of this process if it is one of several that run tests; None if it is the only one."""
    inputs: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    return inputs


def pytest_configure(config: pytest.Config) -> None:
    """Keep the mounts of one of several processes from the others."""
    # A sandbox begins with copies of all mounts that it sees. The file system of a card that a test has unmounted would
    # stay in use until the last sandbox of another process has ended.
    if worker_input(config):
        with suppress(PermissionError):  # only root mounts
            enter_private_namespace()
        # Two guests with two processors each would wait for each other's processors: each boot takes 15 % longer.
        os.environ.setdefault("EDGE_OSBUILD_CPUS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process that is going to run tests the path of the file."""
    node.workerinput[GROUPS] = str(groups_file(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling | None:
    return GroupScheduling(config, log, groups_file(config)) if config.getoption("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Sort tests by the rank of their group. A process that is the only one runs tests as collected."""
    yield  # pytest itself sorts tests by board
    if worker_input(config):
        items.sort(key=lambda item: rank_group(group_of(item)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the groups of all tests. pytest-xdist reports the end of the collection afterwards."""
    if inputs := worker_input(session.config):
        names = {item.nodeid: group_of(item) for item in session.items}
        write_output(Path(inputs[GROUPS]), json.dumps(names).encode())

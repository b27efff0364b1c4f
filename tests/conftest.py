"""What all tests share."""

import gc
import os
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.support.examples import examples
from tests.support.order import rank_test
from tests.support.postgresql import running_postgresql, text_of
from tests.support.update_server import databases

# A shell that runs a job in the background has it ignore Ctrl-C, and nohup(1) SIGHUP. So would every program that is
# tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes says how busy this machine is, and nothing of what is tested.
settings.register_profile("patient", deadline=None, max_examples=examples(100))
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank_test(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without garbage collections, which would find nothing: what is imported exists up to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Leave what was collected, which exists up to the end, out of garbage collections: 3400 tests are large."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def own_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests have development keys of their own: those of whoever runs them may be trusted by devices."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patched.delenv("EDGE_OSBUILD_KEYS", raising=False)
        yield


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The umask of this process is the same for each test: some change it, as does `edge-osbuild build`."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=os.environ.get("EDGE_TEST_DATABASE") == "postgresql")
def all_on_postgresql() -> Iterator[None]:
    """Let all update servers of tests use PostgreSQL."""
    with running_postgresql() as server:
        databases.create = lambda: text_of(server.create_database())
        yield
        databases.create = None

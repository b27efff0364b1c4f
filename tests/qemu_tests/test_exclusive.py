"""Turns of processes that run tests: a test that runs alone waits for all others, and is not overtaken."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.exclusive import hold_lock, hold_turn

from osbuild.shared.locks import is_locked

SECONDS = 30.0


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_tests_run_at_the_same_time_unless_one_runs_alone(tmp_path: Path) -> None:
    events: list[str] = []

    def run_test(name: str, *, alone: bool) -> None:
        with hold_turn(alone=alone, folder=tmp_path):
            events.append(name)

    alone = threading.Thread(target=run_test, args=("alone",), kwargs={"alone": True})
    later = threading.Thread(target=run_test, args=("later",), kwargs={"alone": False})
    with hold_turn(alone=False, folder=tmp_path):
        with hold_turn(alone=False, folder=tmp_path):
            run_test("beside", alone=False)
            alone.start()
            wait_for(lambda: is_locked(tmp_path / "next-turn.lock"))
            later.start()
            time.sleep(0.2)
        time.sleep(0.2)
        assert events == ["beside"], "one other test still runs"
    alone.join(SECONDS)
    later.join(SECONDS)
    assert events == ["beside", "alone", "later"]


def test_nothing_begins_beside_a_test_that_runs_alone(tmp_path: Path) -> None:
    begun = threading.Event()

    def run_test() -> None:
        with hold_turn(alone=False, folder=tmp_path):
            begun.set()

    other = threading.Thread(target=run_test)
    with hold_turn(alone=True, folder=tmp_path):
        other.start()
        assert not begun.wait(0.2)
    assert begun.wait(SECONDS)
    other.join(SECONDS)


def test_a_lock_is_of_one_holder_and_its_folder_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "build/locks"
    with hold_lock("image", folder=folder), hold_lock("other", folder=folder):
        assert is_locked(folder / "image.lock")
    assert not is_locked(folder / "image.lock")

"""Several processes that run tests: one runs all tests of a group, and the longest groups begin first."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CONFTEST = """
from types import SimpleNamespace
import pytest
from support import scheduling

def pytest_configure(config):
    config.pluginmanager.register(scheduling)

def pytest_generate_tests(metafunc):
    values = [pytest.param(SimpleNamespace(name=name), id=name) for name in ("arm64", "x86_64")]
    metafunc.parametrize("board", values, scope="session")
"""
TESTS = """
import os
import time
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(6))
def test_one(board, number):
    time.sleep(0.05)
    Path("mounts", str(os.getpid())).write_text(os.readlink("/proc/self/ns/mnt"))
"""
OWN_NAMESPACE = str(Path("/proc/self/ns/mnt").readlink())
MODULES = ("test_bundle", "test_update", "test_cluster")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three modules with six tests for each of two boards. The group `update-x86_64` is a long one."""
    (tmp_path / "mounts").mkdir()
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(TESTS)
    return tmp_path


def run_tests(project: Path, *options: str) -> list[tuple[str, str, str]]:
    """Run all tests, and return process, module and board of each in the order in which they have ended."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command += ["-o", f"pythonpath={PROJECT} {PROJECT / 'qemu-tests'}", "--import-mode=importlib", *options, "."]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    pattern = r"^(?:\[(gw\d)\] \[ *\d+%\] PASSED )?(test_\w+)\.py::test_one\[(\w+)-\d\] (?:PASSED .*)?$"
    ended = re.findall(pattern, result.stdout, re.MULTILINE)
    return [match for match in ended if match[0] or "-n" not in options]


def mount_namespaces(project: Path) -> list[str]:
    """Return the mount namespace of each process that has run tests."""
    return [path.read_text() for path in (project / "mounts").iterdir()]


def test_each_group_is_run_by_one_process_and_the_longest_begins_first(project: Path) -> None:
    ended = run_tests(project, "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")
    assert len(ended) == len(MODULES) * 2 * 6
    processes = defaultdict(set)
    for process, module, board in ended:
        processes[module, board].add(process)
    assert len(processes) == len(MODULES) * 2
    assert all(len(names) == 1 for names in processes.values()), processes
    assert len(set.union(*processes.values())) == 2
    assert ("test_update", "x86_64") in {ended[0][1:], ended[1][1:]}
    if os.geteuid() == 0:
        namespaces = mount_namespaces(project)
        assert len({*namespaces, OWN_NAMESPACE}) == 3, "no process sees the mounts of another"


def test_a_process_that_is_the_only_one_runs_tests_as_collected(project: Path) -> None:
    order = list(dict.fromkeys((board, module) for _, module, board in run_tests(project)))
    assert mount_namespaces(project) == [OWN_NAMESPACE]
    assert order == [(board, module) for board in ("arm64", "x86_64") for module in sorted(MODULES)]

"""Groups of tests, for several processes that run tests at the same time (`scheduling.py`).

One process runs all tests of a group, in their order. Tests that start from the same saved device are one group. All
other tests of one module, board and distribution are one, because they share what the fixtures of the module make.
"""

from collections.abc import Collection

import pytest

SAVED_DEVICES = ("server", "light")
"""fixtures of devices that tests of several modules start from"""
# Modules whose servers listen on the same port of this host.
ONE_PORT = dict.fromkeys(
    (
        "test_cluster_security",
        "test_control_plane",
        "test_helm",
        "test_joining",
        "test_k3s_etcd",
        "test_k3s_server",
        "test_load_balancer",
        "test_local_api",
        "test_manifests",
        "test_watches",
    ),
    "control-plane",
)
# Modules that go on with the machine of another one (`cluster_node`).
ONE_MACHINE = dict.fromkeys(
    ("test_cluster_addons", "test_cluster_cis", "test_cluster_helm", "test_cluster_two_nodes"), "cluster"
)
# The groups of `make test-qemu` that take longest, each at least half a minute, begin first, so that all processes end
# at the same time. A process gets its next group while the last two tests of its group are left, so no group of one
# long test is among the last.
LONGEST = (
    "fleet-x86_64",
    "update-x86_64",
    "system-armv7",
    "control-plane",
    "system-x86_64",
    "system-arm64",
    "light-x86_64",
    "build-x86_64",
    "flash-x86_64",
    "seed_node-x86_64",
    "foreign",
    "driver-x86_64",
    "sandbox-x86_64",
    "flash",
    "bundle",
)
RANKS = {name: rank for rank, name in enumerate(LONGEST)}


def group_name(module: str, fixtures: Collection[str], board: str = "", distribution: str = "") -> str:
    """Return the name of a test's group; `fixtures` are the names of all fixtures that the test uses."""
    # Without the fixture `lab`, a fixture of this name is a module's own.
    saved = next((name for name in SAVED_DEVICES if name in fixtures and "lab" in fixtures), None)
    first = saved or ONE_PORT.get(module) or ONE_MACHINE.get(module) or module.removeprefix("test_")
    return "-".join(part for part in (first, distribution, board) if part)


def group_of(item: pytest.Item) -> str:
    """Return the name of a collected test's group."""
    callspec = getattr(item, "callspec", None)
    parameters = callspec.params if callspec else {}
    board = parameters["board"].name if "board" in parameters else ""
    fixtures = getattr(item, "fixturenames", ())
    return group_name(item.path.stem, fixtures, board, parameters.get("distribution", ""))


def rank_group(name: str) -> int:
    """Return a group's rank: groups begin in this order, and those that are not in `LONGEST` last."""
    return RANKS.get(name, len(RANKS))

"""The groups of tests that several processes run: what must stay together, and which group begins first."""

import re
from pathlib import Path

import pytest
from support.groups import LONGEST, ONE_PORT, SAVED_DEVICES, group_name, rank_group
from support.matrix import FULL, emulated_boards

QEMU_TESTS = Path(__file__).parents[2] / "qemu-tests"
MODULES = {path.stem for path in QEMU_TESTS.glob("test_*.py")}


def test_tests_of_one_module_board_and_distribution_are_one_group() -> None:
    assert group_name("test_cluster", ["node", "key"], "x86_64", "k3s") == "cluster-k3s-x86_64"
    names = {
        group_name("test_system", ["first"], "x86_64"),
        group_name("test_system", ["first"], "arm64"),
        group_name("test_uboot", ["first"], "x86_64"),
        group_name("test_cluster", ["node"], "x86_64", "upstream"),
        group_name("test_cluster", ["node"], "x86_64", "k3s"),
        group_name("test_system", []),
    }
    assert len(names) == 6


@pytest.mark.parametrize("device", SAVED_DEVICES)
def test_tests_that_start_from_one_saved_device_are_one_group_and_separate_from_others(device: str) -> None:
    matrix, power = (group_name(module, ["lab", device], "x86_64") for module in ("test_update_matrix", "test_power"))
    assert matrix == power == f"{device}-x86_64"
    assert group_name("test_update_matrix", ["lab", device], "arm64") != matrix
    assert group_name("test_update_matrix", ["lab"], "x86_64") != matrix


def test_a_device_with_a_cluster_is_of_one_distribution() -> None:
    names = {group_name("test_update_matrix", ["lab", "server"], "x86_64", name) for name in ("upstream", "k3s")}
    assert len(names) == 2


def test_modules_whose_servers_use_one_port_are_one_group() -> None:
    texts = {path.stem: path.read_text() for path in QEMU_TESTS.glob("test_*.py")}
    servers = re.compile(r"^from support\.control_plane import (?!wait_for$)", re.MULTILINE)
    users = {module for module, text in texts.items() if servers.search(text)}
    # A K3s server has the network of its test, unless that makes namespaces.
    users |= {module for module, text in texts.items() if "import K3sServer" in text and "running_network" not in text}
    assert users == set(ONE_PORT)
    assert {group_name(module, ["plane", "server"]) for module in users} == {"control-plane"}


def test_the_longest_groups_begin_first() -> None:
    ranks = [rank_group(name) for name in LONGEST]
    assert ranks == sorted(set(ranks))
    assert rank_group("bundle_layout") > max(ranks)


@pytest.mark.parametrize("name", LONGEST)
def test_every_name_of_a_long_group_is_that_of_a_group(name: str) -> None:
    boards = [board.name for board in emulated_boards()]
    names = {group_name(module, [], board) for module in MODULES for board in ["", *boards]}
    names |= {group_name("test_update_matrix", ["lab", device], FULL) for device in SAVED_DEVICES}
    assert name in names

"""The tests that run on each board.

A test that uses the fixture `board`, itself or through another fixture, runs once for each board that `--board`
names. This module lists the tests that can't run on a board, and those that take too long for `make test`.
"""

from osbuild.config.board import Board, load_board, shipped_boards
from osbuild.host.architecture import Architecture

FULL = "x86_64"
"""the board that `make test` tests in full"""
ALL = "all"

# The only test that `make test` runs on the other boards. `make test-all` runs the rest; docs/run.md lists the times.
# (Compiling Kubernetes for a second architecture alone takes 6 minutes.)
FIRST_BOOT = "test_system.test_an_image_boots_from_power_on_to_boot_complete"
CLUSTERS = (
    "test_cluster", "test_cluster_addons", "test_cluster_cis", "test_cluster_two_nodes", "test_ingress", "test_join",
    "test_k3s", "test_servers_update", "test_translated_networks", "test_wireguard",
)  # fmt: skip
# Board of an agent -> board of its server. An emulated 32-bit API server takes almost ten minutes to start, and small
# boards in the field also join servers of other boards.
SERVERS = {"armv7": "x86_64"}
# The failure matrix runs in full on one board; the others run an update, a rollback and a power cut (test_update).
FAILURES = (
    "test_update_matrix", "test_update_power", "test_update_power_cluster", "test_update_cluster",
    "test_first_boot_power",
)  # fmt: skip
PANIC = "test_a_new_version_that_panics_falls_back_after_its_tries"
NVME = (
    "test_without_a_boot_loader_the_disk_with_the_matching_root_is_used",
    "test_a_copy_is_never_used_instead_of_the_disk_that_the_firmware_has_read",
)
# They run programs of the image on this host.
ON_THIS_HOST = ("test_dual_stack", "test_registries", "test_sandbox")
LEAST_FOR_A_CLUSTER = 2 * 2**30  # bytes


def emulated_boards() -> list[Board]:
    """Return the boards that QEMU emulates."""
    return [board for board in map(load_board, shipped_boards()) if board.qemu.machine]


def obstacle(board: Board, module: str, test: str) -> str | None:
    """Return why a test can't run on a board; None if it can."""
    if module in ON_THIS_HOST and board.architecture is not Architecture.native():
        return "runs programs of the image on this host"
    if board.qemu.limit:
        return board.qemu.limit if module != "test_uboot" or "kernel" in test else None
    if module in CLUSTERS and board.qemu.memory and board.qemu.memory < LEAST_FOR_A_CLUSTER:
        return f"{board.qemu.machine} has too little memory for a Kubernetes server"
    if module in FAILURES and board.name != FULL:
        return f"failures of updates are tested on {FULL}"
    if module == "test_servers_update" and board.name != FULL:
        return f"the update of three servers is tested on {FULL}"
    if module == "test_cluster_two_nodes" and board.name != FULL:
        return "test_join has it on this board"
    if module in ("test_wireguard", "test_translated_networks") and board.name != FULL:
        return f"WireGuard between nodes is tested on {FULL}"
    if board.name == FULL and test == PANIC:
        return "test_update_matrix has it on this board, with everything else that a new version may do"
    if module == "test_uboot" and board.boot != "uboot":
        return "this board boots by UEFI"
    if test in NVME and board.qemu.disk == "sd":
        return f"{board.qemu.machine} has no PCI bus for an NVMe disk"
    if module in ("test_driver", "test_driver_failures") and board.qemu.disk != "virtio":
        return "the driver's own tests work on virtio disks and hot-plugged PCI cards"
    return None


def quick(board: Board, module: str, test: str) -> bool:
    """Whether `make test` runs a test on a board."""
    if board.name == FULL:
        return True
    if obstacle(board, module, test):
        return True  # skipped, which takes no time
    if board.qemu.firmware == "uboot":
        return False  # an emulated Pi reads its card byte by byte, and needs minutes for each boot
    return f"{module}.{test}" == FIRST_BOOT

"""The order of the files of tests: those that take longest come first, so that all processes end at the same time."""

FIRST = (
    "agent/network/test_network.py",
    "inputs/test_debian.py",
    "test_lint.py",
    "agent/update/test_cuts.py",
    "flash/test_flash.py",
    "agent/cluster/test_cluster_data.py",
    "packaging/test_wheel.py",
    "pipeline/test_doctor.py",
    "cli/test_fuzz.py",
    "agent/kubernetes/test_k3s_certificates.py",
    "agent/test_state_files.py",
    "inputs/test_hostile_servers.py",
    "inspection/test_image.py",
    "flash/test_seed_insertion.py",
    "flash/test_formats.py",
    "agent/kubernetes/test_k3s.py",
    "kubernetes/test_k3s.py",
    "qemu_tests/test_replay.py",
    "cli/test_location.py",
    "boot/test_initrd_disk.py",
    "config/test_node.py",
)
RANKS = {f"tests/{name}": rank for rank, name in enumerate(FIRST)}


def rank_test(test: str) -> int:
    """Return a test's place by its name: tests of one file have the same one, and short files share the last one."""
    return RANKS.get(test.partition("::")[0], len(RANKS))

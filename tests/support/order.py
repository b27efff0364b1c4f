"""The order of the files of tests: those that take longest come first, so that all processes end at the same time."""

FIRST = (
    "inputs/test_hostile_servers.py",
    "inputs/test_debian.py",
    "test_lint.py",
    "fleet/page/test_browser.py",
    "cli/test_fuzz.py",
    "packaging/test_wheel.py",
    "agent/network/test_network.py",
    "agent/update/test_cuts.py",
    "agent/cluster/test_cluster_data.py",
    "cli/test_cli.py",
    "flash/test_flash.py",
    "inspection/test_image.py",
    "agent/seed/test_seed.py",
    "kubernetes/test_k3s.py",
    "seed/test_user_data.py",
    "boot/test_initrd_disk.py",
    "agent/kubernetes/test_kubernetes.py",
    "agent/test_state_files.py",
    "seed/test_seed.py",
    "config/test_node.py",
    "test_layout.py",
    "agent/kubernetes/test_k3s_certificates.py",
    "agent/kubernetes/test_k3s.py",
    "qemu_tests/test_replay.py",
    "cli/test_location.py",
    "flash/test_seed_insertion.py",
)
RANKS = {f"tests/{name}": rank for rank, name in enumerate(FIRST)}


def rank_test(test: str) -> int:
    """Return a test's place by its name: tests of one file have the same one, and short files share the last one."""
    return RANKS.get(test.partition("::")[0], len(RANKS))

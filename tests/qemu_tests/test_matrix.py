"""The matrix of boards and tests names tests by text: each must exist."""

import re
from pathlib import Path

import pytest

QEMU_TESTS = Path(__file__).parents[2] / "qemu-tests"
NAMES = re.findall(r'"((?:test_\w+\.)?test_\w+)"', (QEMU_TESTS / "support/matrix.py").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_the_matrix_is_a_test(name: str) -> None:
    module, _, function = name.rpartition(".")
    if (QEMU_TESTS / f"{name}.py").exists():
        return
    files = [QEMU_TESTS / f"{module}.py"] if module else list(QEMU_TESTS.glob("test_*.py"))
    assert any(f"def {function}(" in path.read_text() for path in files)

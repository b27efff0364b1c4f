"""The rules that the tree of files keeps."""

import ast
import re
import sys
import warnings
from pathlib import Path

import pytest

from tests.test_lint import PROJECT, tracked

AGENT = PROJECT / "osbuild" / "agent"
# PyYAML is in every image: cloud-init depends on it.
OTHER_IMPORTS = {AGENT / "pyyaml.py": "yaml"}
LONG, LONGEST = 300, 400  # lines of a module


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "" if node.level == 0 else "osbuild.agent" if AGENT in path.parents else "osbuild")
    return found


def test_what_runs_on_the_device_imports_the_standard_library_only() -> None:
    paths = modules(AGENT)
    assert paths
    for path in paths:
        for name in imports(path):
            inside = name == "osbuild.agent" or name.startswith("osbuild.agent.")
            known = name.partition(".")[0] in sys.stdlib_module_names or name == OTHER_IMPORTS.get(path)
            assert inside or known, f"{path} imports {name}"


def test_no_module_is_too_long() -> None:
    lengths = {path.relative_to(PROJECT): path.read_text().count("\n") for path in modules(PROJECT / "osbuild")}
    assert [str(path) for path, count in lengths.items() if count > LONGEST] == []
    for path, count in lengths.items():
        if count > LONG:
            warnings.warn(f"{path} has {count} lines: is it still one noun?", stacklevel=1)


def test_every_module_says_what_it_is() -> None:
    bare = [str(path) for path in modules(PROJECT / "osbuild") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert bare == []


@pytest.mark.parametrize(
    "pattern",
    [
        rb"/tmp/(?!\*)[a-z]*bash_jobs",
        rb"(?:^|[\s\"'=:])/work/(?:main|shared)\b",
        rb"/root/\.(?:pyenv|cache|config)\b",
        rb"\b[a-z0-9-]+\.pkg\.dev\b",
        rb"\b10\.255\.\d+\.\d+\b",
    ],
)
def test_no_file_names_the_machine_that_it_was_written_on(pattern: bytes) -> None:
    found = [
        str(path.relative_to(PROJECT))
        for path in tracked()
        if path != Path(__file__) and re.search(pattern, path.read_bytes())
    ]
    assert found == []

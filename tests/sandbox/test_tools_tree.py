"""The sandbox of a tools tree: what a program in it sees of the host."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuild.sandbox.tools_tree import ToolsTree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a sandbox needs root")


@pytest.fixture
def tree(tmp_path: Path) -> ToolsTree:
    """A tree with nothing but `cat`, `ls` and what they are linked with."""
    root = tmp_path / "tree"
    programs = [Path(str(shutil.which(name))).resolve() for name in ("cat", "ls")]
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    libraries = {Path(name) for name in re.findall(r"(/\S+) \(0x", listed)}
    for path in (*programs, *libraries):
        # On a host with a merged /usr, /lib is a link to usr/lib.
        target = root / "usr" / str(path).removeprefix("/usr").lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("etc", "usr/local/lib/python3", "var/lib/dpkg"):
        (root / name).mkdir(parents=True)
    (root / "etc/own").write_text("of the tree\n")
    (root / "usr/local/lib/python3/own").write_text("of the tree\n")
    return ToolsTree(root)


@pytest.fixture(params=["usr/local/lib", "var/lib", "etc", "srv"])
def host(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A new folder of the host, where somebody might install this project or have their cache."""
    folder = Path("/", request.param, f"edge-osbuild-test-{os.getpid()}", "inner")
    folder.mkdir(parents=True)
    (folder / "file").write_text("of the host\n")
    yield folder
    shutil.rmtree(folder.parent)


def test_a_program_sees_a_folder_of_the_host_wherever_it_is(tree: ToolsTree, host: Path) -> None:
    assert tree.run_command(["cat", host / "file"], [host]) == "of the host\n"
    assert tree.run_command(["cat", host / "file"], read_only_binds=[(host, str(host))]) == "of the host\n"
    own = ["/etc/own", "/usr/local/lib/python3/own"]
    assert tree.run_command(["cat", host / "file", *own], [host]) == "of the host\n" + 2 * "of the tree\n"
    assert tree.run_command(["ls", host.parent], [host]) == "inner\n"


def test_a_program_sees_nothing_else_of_the_host(tree: ToolsTree, host: Path) -> None:
    beside = host.with_name("beside")
    beside.mkdir()
    assert tree.run_command(["ls", host.parent], [host]) == "inner\n"
    assert "hostname" not in tree.run_command(["ls", "/etc"], [host])

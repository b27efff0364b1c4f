"""The Python part of the container image: this program, and the libraries that the update server imports."""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from osbuild.host import paths
from osbuild.host.run import Argument, run_contained
from osbuild.host.version import DISTRIBUTION, read_version
from osbuild.sandbox.tools_tree import ToolsTree

# What `osbuild.cli.serve` imports; pip adds what these need.
SERVER = (
    "alembic", "cbor2", "click", "cryptography", "httptools", "httpx", "jinja2", "msgspec", "prometheus-client",
    "psycopg[binary]", "python-multipart", "pyyaml", "rich", "sqlalchemy", "starlette", "tzdata", "uvicorn", "uvloop",
)  # fmt: skip
PYTHON = "3.13"  # of Debian 13
FOLDER = Path("usr/lib/edge-osbuild")  # in the image


def install_libraries(target: Path) -> None:
    """Install the server's libraries for the image's Python, in the versions that this program runs with."""
    constraints = target.with_name("constraints.txt")
    installed = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions()}
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
        f"--target={target}", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp",
        f"--constraint={constraints}", *SERVER,
    ]  # fmt: skip
    run_contained(
        command,
        env={**os.environ, "TMPDIR": str(target.parent)},
        hint="check that pip reaches the Python package index",
    )
    shutil.rmtree(target / "bin", ignore_errors=True)  # their first lines name this host's Python


def install_program(target: Path) -> None:
    """Copy this program, as its wheel would install it, without what only builds of images need."""
    shutil.copytree(
        paths.PACKAGE, target / "osbuild", ignore=shutil.ignore_patterns("__pycache__", "shipped"), symlinks=True
    )
    version = read_version()
    shipped = target / "osbuild" / paths.SHIPPED.name
    shipped.mkdir()
    (shipped / "commit").write_text(f"{version.commit or ''}\n")
    metadata = target / f"{DISTRIBUTION.replace('-', '_')}-{version.number}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version.number}\n")


def compile_libraries(target: Path, tools: ToolsTree) -> None:
    """Compile all modules: the image is read-only, and they would be compiled at each start."""
    command: list[Argument] = [
        "python3", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "-s", target, "-p", f"/{FOLDER}",
        target,
    ]  # fmt: skip
    tools.run_command(command, [target])

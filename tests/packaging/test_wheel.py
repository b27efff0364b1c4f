"""The wheel: it has all of the checkout that a build needs, and nothing is ever written to where it is installed.

qemu-tests/test_build.py builds images with one.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osbuild.host.cache import Cache
from osbuild.host.version import read_version
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from tests.support.checkout import PROJECT, list_files
from tests.support.mounted import read_contents

SHIPPED = "osbuild/shipped"
SCHEMAS = "cloud-init-schemas"  # what seeds are checked by, downloaded once
Edge = Callable[..., subprocess.CompletedProcess[str]]

# Prints a key for each shipped profile: what an image is made of, but for the packages, which are made up here.
KEYS = """
import json
from pathlib import Path
from osbuild.config.board import load_board, shipped_boards
from osbuild.config.load import find_profile, load_profile
from osbuild.config.upstream_versions import find_release
from osbuild.inputs.debian import Deb
from osbuild.inputs.lock import Lock, LockedKubernetes
from osbuild.keys.development import signing_keys
from osbuild.kubernetes.upstream_distribution import module_files
from osbuild.pipeline.inputs import find_inputs
from osbuild.pipeline.resolve import request_key

keys, debs = {}, (Deb("a", "1", "all", "0" * 64, 5),)
release = find_release(None)
boards = [load_board(name) for name in shipped_boards()]
for profile in ("minimal", "edge-server", "edge-agent"):
    loaded = load_profile(find_profile(profile))
    files = module_files(release.folder, loaded.profile.kubernetes)
    pinned = LockedKubernetes(distribution="upstream", version=release.version, files=files)
    for machine in boards:
        request = request_key(loaded, machine)
        lock = Lock(
            machine.name, machine.architecture, request, 1700000000, debs, debs, debs, debs[0], debs, debs, pinned
        )
        keys[f"{profile} {machine.name}"] = [request, find_inputs(loaded, machine, lock, signing_keys()).key]
print(json.dumps(keys))
"""


def run(*command: str | Path, umask: int = 0o022, cwd: Path = PROJECT) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, umask=umask, cwd=cwd).stdout


def members(archive: Path) -> dict[str, tuple[bytes, int]]:
    """What is in a wheel: name -> contents and mode; without its own metadata."""
    with zipfile.ZipFile(archive) as wheel:
        infos = [info for info in wheel.infolist() if ".dist-info/" not in info.filename]
        return {info.filename: (wheel.read(info), info.external_attr >> 16) for info in infos}


def build_wheel(source: Path, target: Path, umask: int = 0o022) -> Path:
    """Build a wheel with the backend that pip uses."""
    run(sys.executable, "-m", "hatchling", "build", "--target=wheel", f"--directory={target}", umask=umask, cwd=source)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that pip has built, with the backend that is installed already."""
    target = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir"]
    run(sys.executable, "-m", "pip", "wheel", *options, f"--wheel-dir={target}", PROJECT)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, installed under umask 077; what it depends on is that of this one."""
    folder = tmp_path_factory.mktemp("venv")
    folder.chmod(0o2700)  # as /usr/local on some hosts: every folder below inherits setgid
    run(sys.executable, "-m", "venv", "--without-pip", folder, umask=0o077)
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", f"--python={folder}/bin/python", "install", *options, wheel, umask=0o077)
    here = sysconfig.get_path("purelib")
    there = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    for path in Path(there, "osbuild").rglob("*.*"):
        path.chmod(path.stat().st_mode & ~0o222)  # some installers do that
    Path(there, "dependencies.pth").write_text(f"{here}\n")
    return folder


@pytest.fixture
def edge(environment: Path, tmp_path: Path) -> Iterator[Edge]:
    """Runs a program of the environment in an empty folder. Nothing that it does may change the environment."""
    (tmp_path / "work").mkdir()
    (tmp_path / "cache").mkdir()
    for kind in (SCHEMAS, "locks"):  # another process may make an entry at the same time
        (tmp_path / "cache" / kind).symlink_to(Cache().folder(kind))
    authority.create_keys(tmp_path / "keys", "edge-osbuild", PrivateKeyAccess(), development=True)
    env = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "EDGE_OSBUILD_KEYS": str(tmp_path / "keys"),
        "EDGE_OSBUILD_CACHE": str(tmp_path / "cache"), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip

    def edge(*arguments: str | Path, program: str = "edge-osbuild") -> subprocess.CompletedProcess[str]:
        command = [environment / "bin" / program, *arguments]
        return subprocess.run(
            command, env=env, cwd=tmp_path / "work", capture_output=True, text=True, umask=0o077, check=False
        )

    before = read_contents(environment)
    yield edge
    assert read_contents(environment) == before


def expected() -> dict[str, Path]:
    """What a wheel must have: its name there -> the file of the checkout."""
    names = {path.relative_to(PROJECT).as_posix(): path for path in list_files()}
    files = {name: path for name, path in names.items() if name.startswith("osbuild/")}
    del files["osbuild/packaging.py"]
    for folder in ("profiles", "boards", "cloud-init"):
        files |= {f"{SHIPPED}/{name}": path for name, path in names.items() if name.startswith(f"{folder}/")}
    return files


def test_a_wheel_has_the_files_of_the_checkout(wheel: Path) -> None:
    packed, wanted_files = members(wheel), expected()
    assert {f"{SHIPPED}/profiles/minimal.yaml", "osbuild/kubernetes/upstream/main.go"} <= wanted_files.keys()
    assert packed.keys() == {*wanted_files, f"{SHIPPED}/overlays.tar", f"{SHIPPED}/commit"}
    for name, path in wanted_files.items():
        data, mode = packed[name]
        assert data == path.read_bytes(), name
        assert bool(mode & 0o100) == bool(path.stat().st_mode & stat.S_IXUSR), f"{name}: pip takes this bit over"


def test_a_wheel_does_not_depend_on_the_umask_or_on_files_that_are_not_shipped(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    os.umask(0o077)
    for path in list_files():
        target = copy / path.relative_to(PROJECT)
        if path.is_symlink() or path.is_relative_to(PROJECT / "overlays"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if path.stat().st_mode & stat.S_IXUSR:
            target.chmod(0o700)
    shutil.copytree(PROJECT / "overlays", copy / "overlays", symlinks=True)
    for name in (
        "profiles/minimal.lock.json",
        "overlays/base/__pycache__/x.pyc",
        "osbuild/__pycache__/x.pyc",
        "build/x",
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    before, after = members(wheel), members(build_wheel(copy, tmp_path / "wheel", umask=0o077))
    assert after.pop(f"{SHIPPED}/commit")[0] == b"\n", "without git nothing says which commit it is"
    del before[f"{SHIPPED}/commit"]
    assert after == before


def test_an_sdist_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "--target=sdist", f"--directory={tmp_path}/sdist")
    (sdist,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    assert members(build_wheel(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "wheel")) == members(wheel)


def test_an_image_is_made_of_the_same_inputs_by_a_wheel_and_by_the_checkout(edge: Edge, tmp_path: Path) -> None:
    result = edge("-c", KEYS, program="python")
    assert result.returncode == 0, result.stderr
    env = {**os.environ, "EDGE_OSBUILD_KEYS": str(tmp_path / "keys")}
    here = subprocess.run(
        [sys.executable, "-c", KEYS], env=env, cwd=PROJECT, capture_output=True, text=True, check=True
    )
    keys = json.loads(here.stdout)
    assert len({key for _, key in keys.values()}) == len(keys) >= 18
    assert json.loads(result.stdout) == keys


def test_a_wheel_names_the_commit_that_it_was_built_from(edge: Edge, wheel: Path) -> None:
    here = read_version()
    assert here.commit is not None
    dirty = "-dirty" if here.modified else ""
    assert members(wheel)[f"{SHIPPED}/commit"][0].decode() == f"{here.commit}{dirty}\n"
    assert edge("--version").stdout == f"edge-osbuild {here}\n"


def test_shipped_profiles_are_read_from_a_wheel(edge: Edge) -> None:
    result = edge("profile", "show", "edge-server", "--json")
    output = json.loads(result.stdout)
    assert output["profile"]["overlays"] == ["base", "ota", "kubernetes"]
    assert [Path(name).parts[-3:] for name in output["files"]] == [
        ("shipped", "profiles", "minimal.yaml"), ("shipped", "profiles", "edge-server.yaml"),
    ]  # fmt: skip
    assert edge("profile", "check", "minimal", "edge-server", "edge-agent").returncode == 0


def test_a_seed_is_made_from_the_templates_of_a_wheel(edge: Edge, tmp_path: Path) -> None:
    result = edge("seed", "edge-server", "--node", "shop-7", "-o", "shop-7.iso")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "work/shop-7.iso").stat().st_size


def test_locks_and_builds_of_shipped_profiles_are_in_the_current_folder(edge: Edge, tmp_path: Path) -> None:
    result = edge("build", "minimal", "--board", "x86_64", "--locked")
    assert result.returncode == 1
    assert result.stderr.startswith("error: minimal.lock.json: the lock does not exist\n")
    assert "edge-osbuild lock minimal --board x86_64" in result.stderr
    assert [path.name for path in (tmp_path / "work").iterdir()] == [], "nothing is left of a build that has not begun"


def test_a_shipped_profile_never_gets_the_lock_of_a_profile_in_the_current_folder(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "work/minimal.yaml").write_text("name: own\nversion: 1.0.0\nextends: minimal\n")
    for command in ("build", "lock"):
        result = edge(command, "minimal", "--board", "x86_64")
        assert result.returncode == 2
        assert "minimal.lock.json in this folder is the lock of minimal.yaml" in result.stderr
        assert "hint: write `minimal.yaml`" in result.stderr
    assert not list((tmp_path / "work").rglob("*.lock.json"))
    result = edge("build", "minimal.yaml", "--board", "x86_64", "--locked")
    assert result.stderr.startswith("error: minimal.lock.json: the lock does not exist\n")


def test_a_cache_that_can_not_be_written_is_named_with_what_to_do(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "cache/shipped").write_text("a file in the way\n")
    result = edge("profile", "show", "minimal")
    assert result.returncode == 1
    assert f"error: {tmp_path}/cache/shipped: cannot be written" in result.stderr
    assert "hint: set EDGE_OSBUILD_CACHE" in result.stderr

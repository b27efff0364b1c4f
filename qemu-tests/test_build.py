"""Builds of real images: the same bytes from the same lock, and nothing left behind by an interrupted build."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from osbuild.config.board import Board
from osbuild.config.load import find_profile, load_profile
from osbuild.host.cache import Cache
from osbuild.host.paths import PROJECT
from osbuild.host.run import run_command
from osbuild.host.version import read_version
from osbuild.inputs.debian import stored_path
from osbuild.inputs.lock import lock_path, read_lock

EDGE = PROJECT / ".venv/bin/edge-osbuild"
USER_CACHE = Cache()  # the user's cache; tests set another


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that shares only the tools trees and Go modules with the user's cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for kind in ("tools", "go"):
        (cache / kind).symlink_to(USER_CACHE.folder(kind))
    monkeypatch.setenv("EDGE_OSBUILD_CACHE", str(cache))
    return cache


@pytest.fixture
def collect_inputs(board: Board, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder of all files that a profile's lock names, for a build without a network."""

    def collect(profile: str) -> Path:
        loaded = load_profile(find_profile(profile))
        lock = read_lock(loaded, board.name)
        assert lock is not None, "the image was built, so there is a lock"
        target = tmp_path / "carried"
        target.mkdir()
        for deb in (*lock.packages, lock.kernel, *lock.initrd, *lock.boot):
            (target / deb.filename).unlink(missing_ok=True)
            (target / deb.filename).symlink_to(stored_path(USER_CACHE, deb))
        for name, digest in lock.wheels.items():
            (target / name).symlink_to(USER_CACHE.folder("downloads") / digest)
        return target

    return collect


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with only this project's wheel and its dependencies, made under umask 077."""
    folder = tmp_path_factory.mktemp("installed")
    run_command(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", PROJECT],
        umask=0o077,
    )
    run_command([sys.executable, "-m", "venv", folder / "venv"], umask=0o077)
    run_command([folder / "venv/bin/pip", "install", "--quiet", *folder.glob("*.whl")], umask=0o077)
    return folder / "venv"


def assert_same_build(first: Path, second: Path) -> None:
    """Assert that two builds have the same files, by the checksums in their manifests and by their bytes."""
    sums = [json.loads((folder / "manifest.json").read_text())["files"] for folder in (first, second)]
    assert {"root.erofs", "root.verity", "disk.img"} <= set(sums[0])
    for name in sums[0]:
        assert sums[0][name]["sha256"] == sums[1][name]["sha256"], name
        run_command(["cmp", first / name, second / name])


def leftovers(cache: Path) -> list[str]:
    """Return what a build must not leave behind: unfinished results, mounts, loop devices, processes in a sandbox."""
    left = [str(path) for path in cache.glob("*/.partial-*") if not path.parent.is_symlink()]
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(cache) in line]
    loops = run_command(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"])
    left += [line for line in loops.splitlines() if str(cache) in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command_line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(cache) in command_line and "bwrap" in command_line:
            left.append(command_line)
    return left


@pytest.mark.parametrize("profile", ["minimal", pytest.param("edge-server", marks=pytest.mark.slow)])
def test_a_second_build_of_the_same_lock_offline_under_another_umask_has_the_same_bytes(
    profile: str, board: Board, image: Callable[[str], Path], fresh_cache: Path, collect_inputs: Callable[[str], Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    isolated = ["unshare", "--net"]  # not even a loopback
    run_command(
        [
            *isolated,
            EDGE,
            "build",
            profile,
            "--board",
            board.name,
            "--locked",
            "--from",
            collect_inputs(profile),
            "-o",
            tmp_path / "out",
        ],
        umask=0o077,
    )
    assert_same_build(image(profile), tmp_path / "out" / image(profile).name)
    assert leftovers(fresh_cache) == []


@pytest.mark.parametrize("profile", ["minimal", pytest.param("edge-server", marks=pytest.mark.slow)])
def test_an_installed_wheel_builds_the_same_bytes_in_any_folder_without_a_checkout(
    profile: str, board: Board, image: Callable[[str], Path], installed: Path, tmp_path: Path
) -> None:
    built, lock = image(profile), lock_path(load_profile(find_profile(profile)))
    # These commands do not see the checkout, and can't change the environment.
    script = 'mount -t tmpfs none "$1"; mount --bind "$2" "$2"; mount -o remount,bind,ro "$2"; shift 2; exec "$@"'
    isolated = ["unshare", "--mount", "sh", "-euc", script, "sh", str(PROJECT), str(installed)]

    def edge(*arguments: str) -> str:
        return run_command([*isolated, installed / "bin/edge-osbuild", *arguments], cwd=tmp_path, umask=0o077)

    assert str(installed) in edge("profile", "show", profile)
    edge("lock", profile, "--board", board.name)
    own_lock = tmp_path / f"{profile}.lock.json"
    assert json.loads(own_lock.read_text())["locks"].keys() == {board.name}
    shutil.copyfile(lock, own_lock)
    edge("build", profile, "--board", board.name, "--locked")
    assert_same_build(built, tmp_path / "build" / built.name)
    builder = json.loads((tmp_path / "build" / built.name / "manifest.json").read_text())["builder"]
    assert builder == asdict(read_version())
    assert {path.name for path in tmp_path.iterdir()} == {"build", own_lock.name}


def interrupt_build(board: Board, output: Path, number: signal.Signals, after: str) -> int:
    """Build `minimal` into `output`, and send a signal 4 seconds after a step has begun. Returns the exit status."""
    command = [str(word) for word in (EDGE, "build", "minimal", "--board", board.name, "--locked", "-o", output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if after in line:
                break
        else:
            pytest.fail(f"the step `{after}` never began: the build before went on with it")
        time.sleep(4)
        process.send_signal(number)
        process.stderr.read()
        return process.wait(60)


@pytest.mark.slow  # 2 minutes
def test_an_interrupted_build_leaves_nothing_behind_and_the_next_build_works(
    board: Board, image: Callable[[str], Path], fresh_cache: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert interrupt_build(board, output, signal.SIGINT, "root file system") == 130
    assert leftovers(fresh_cache) == []
    assert interrupt_build(board, output, signal.SIGTERM, "root file system") == 128 + signal.SIGTERM
    assert leftovers(fresh_cache) == []
    assert interrupt_build(board, output, signal.SIGKILL, "root file system") == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while any("bwrap" in line for line in leftovers(fresh_cache)):
        assert time.monotonic() < deadline, leftovers(fresh_cache)
        time.sleep(0.5)
    assert not any(path.suffix == ".img" for path in output.rglob("*"))
    # Of two builds at the same time, one makes the image and the other waits for it. The image is not replaced: a
    # machine may have it open by then.
    command = [str(word) for word in (EDGE, "build", "minimal", "--board", board.name, "--locked", "-o", output)]
    builds = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate(timeout=600)[1] for process in builds]
    assert [process.returncode for process in builds] == [0, 0], messages
    assert sorted("nothing changed since the last build" in text for text in messages) == [False, True], messages
    assert_same_build(image("minimal"), output / image("minimal").name)
    assert leftovers(fresh_cache) == [], "what the killed build left is gone too"

"""Version and commit, as `--version` and the build manifest name them."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from osbuild import paths
from osbuild.arch import Architecture
from osbuild.boot.kernel import Kernel
from osbuild.debian import Deb
from osbuild.lock import Lock
from osbuild.manifest import manifest
from osbuild.profile import load
from osbuild.run import run
from osbuild.version import Version, version

NUMBER = tomllib.loads((paths.PROJECT / "pyproject.toml").read_text())["project"]["version"]
IDENTITY = ["-c", "user.name=edge", "-c", "user.email=edge@example.com", "-c", "commit.gpgsign=false"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, in the place of the project's own."""
    (tmp_path / "file").write_text("first")
    for arguments in (["init", "--quiet"], ["add", "file"], [*IDENTITY, "commit", "--quiet", "-m", "first"]):
        run(["git", "-C", tmp_path, *arguments])
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    return tmp_path


def test_a_checkout_names_its_commit_and_local_changes(checkout: Path) -> None:
    commit = run(["git", "-C", checkout, "rev-parse", "HEAD"]).strip()
    assert (version().number, version().commit, version().modified) == (NUMBER, commit, False)
    assert str(version()) == f"{NUMBER} (commit {commit[:12]})"
    (checkout / "file").write_text("second")
    assert (version().commit, version().modified) == (commit, True)
    assert str(version()) == f"{NUMBER} (commit {commit[:12]}-dirty)"


def test_a_file_that_is_not_tracked_is_a_local_change_unless_git_ignores_it(checkout: Path) -> None:
    (checkout / ".git/info/exclude").write_text("/build\n")
    (checkout / "build").write_text("an output")
    assert not version().modified
    (checkout / "overlay").write_text("an input")
    assert version().modified


def test_a_git_command_that_runs_the_program_does_not_name_the_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = version()
    other = tmp_path_factory.mktemp("other")
    run(["git", "init", "--quiet", other])
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert version() == expected != Version(NUMBER)


def test_without_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    assert str(version()) == NUMBER


def test_without_git_there_is_no_commit(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(version()) == NUMBER


def test_a_folder_within_another_checkout_is_not_that_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "inside").mkdir()
    monkeypatch.setattr(paths, "PROJECT", checkout / "inside")
    assert version().commit is None


def test_the_build_manifest_names_the_builder(tmp_path: Path) -> None:
    profile = load.load(load.find("minimal")).profile
    deb = Deb("linux-image", "6.12", "amd64", "0" * 64, 1)
    lock = Lock("x86_64", Architecture.x86_64, "request", 0, (), (), (), deb, (), ())
    made = manifest(
        profile, lock, tmp_path, Kernel(tmp_path, "6.12"), None, {}, key="key", roothash="0" * 64, free=30, trust={}
    )
    assert made["builder"] == asdict(version())
    assert made["builder"]["number"] == NUMBER

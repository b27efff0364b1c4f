"""Version and commit, as `--version` and the build manifest name them."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from osbuild.boot.kernel import Kernel
from osbuild.config import load
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.host.run import run_command
from osbuild.host.version import ProgramVersion, read_version
from osbuild.inputs.build_manifest import TrustRecord
from osbuild.inputs.debian import Deb
from osbuild.inputs.lock import Lock
from osbuild.pipeline.manifest import BuiltImage, make_manifest

NUMBER = tomllib.loads((paths.PROJECT / "pyproject.toml").read_text())["project"]["version"]
IDENTITY = ["-c", "user.name=edge", "-c", "user.email=edge@example.com", "-c", "commit.gpgsign=false"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, in the place of the project's own."""
    (tmp_path / "file").write_text("first")
    for arguments in (["init", "--quiet"], ["add", "file"], [*IDENTITY, "commit", "--quiet", "-m", "first"]):
        run_command(["git", "-C", tmp_path, *arguments])
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    return tmp_path


def test_a_checkout_names_its_commit_and_local_changes(checkout: Path) -> None:
    commit = run_command(["git", "-C", checkout, "rev-parse", "HEAD"]).strip()
    assert (read_version().number, read_version().commit, read_version().modified) == (NUMBER, commit, False)
    assert str(read_version()) == f"{NUMBER} (commit {commit[:12]})"
    (checkout / "file").write_text("second")
    assert (read_version().commit, read_version().modified) == (commit, True)
    assert str(read_version()) == f"{NUMBER} (commit {commit[:12]}-dirty)"


def test_a_file_that_is_not_tracked_is_a_local_change_unless_git_ignores_it(checkout: Path) -> None:
    (checkout / ".git/info/exclude").write_text("/build\n")
    (checkout / "build").write_text("an output")
    assert not read_version().modified
    (checkout / "overlay").write_text("an input")
    assert read_version().modified


def test_a_git_command_that_runs_the_program_does_not_name_the_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_version()
    other = tmp_path_factory.mktemp("other")
    run_command(["git", "init", "--quiet", other])
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert read_version() == expected != ProgramVersion(NUMBER)


def test_without_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    assert str(read_version()) == NUMBER


def test_without_git_there_is_no_commit(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(read_version()) == NUMBER


def test_a_folder_within_another_checkout_is_not_that_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "inside").mkdir()
    monkeypatch.setattr(paths, "PROJECT", checkout / "inside")
    assert read_version().commit is None


def test_the_build_manifest_names_the_builder(tmp_path: Path) -> None:
    profile = load.load_profile(load.find_profile("minimal")).profile
    deb = Deb("linux-image", "6.12", "amd64", "0" * 64, 1)
    lock = Lock("x86_64", Architecture.x86_64, "request", 0, (), (), (), deb, (), ())
    built = BuiltImage(tmp_path, Kernel(tmp_path, "6.12"), None, {}, "0" * 64, 30)
    manifest = make_manifest(profile, lock, built, key="key", trust=TrustRecord())
    assert manifest.to_json()["builder"] == asdict(read_version())
    assert manifest.to_json()["builder"]["number"] == NUMBER

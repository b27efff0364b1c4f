"""The doctor's findings, on this host and on what is made to look like a poorer one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from osbuild.cli.doctor import render_checks
from osbuild.host.cache import Cache
from osbuild.pipeline import doctor
from osbuild.pipeline.doctor import HostCheck, diagnose_host, install_line, missing_packages
from osbuild.shared.errors import Error

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt has no index of this host's sources: to read a real one takes half a second."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "apt.conf").write_text(f'Dir::State::lists "{tmp_path}/lists";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))


def find(name: str, tmp_path: Path) -> HostCheck:
    (check,) = [check for check in diagnose_host(Cache(tmp_path / "cache"), tmp_path / "build") if check.name == name]
    return check


def command(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The real command, with a PATH that has nothing."""
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), "EDGE_OSBUILD_CACHE": str(tmp_path / "cache")}
    arguments = [sys.executable, "-m", "osbuild", "doctor", *options]
    return subprocess.run(arguments, env=env, cwd=PROJECT, capture_output=True, text=True)


def test_missing_programs_are_named_with_one_line_that_installs_them(tmp_path: Path) -> None:
    result = command(tmp_path)
    assert result.returncode == 1
    assert "✗ mmdebstrap" in result.stdout
    assert re.search(r"^  .*apt-get install .*\bbubblewrap mmdebstrap openssh-client$", result.stdout, re.MULTILINE)
    assert result.stderr == ""


def test_json_has_every_finding(tmp_path: Path) -> None:
    result = command(tmp_path, "--json")
    assert result.returncode == 1
    document = {check["name"]: check for check in json.loads(result.stdout)}
    assert document["bwrap"] == {
        "name": "bwrap",
        "good": False,
        "detail": "runs build steps in tools trees",
        "required": True,
        "package": "bubblewrap",
        "fix": None,
    }
    assert document["Python"]["good"]


def test_each_package_that_the_doctor_asks_for_is_installed_by_make() -> None:
    listed = {line.partition("#")[0].strip() for line in (PROJECT / "host-packages.txt").read_text().splitlines()} - {
        ""
    }
    packages = {package for package, _ in doctor.PROGRAMS.values()} | {"ca-certificates", "debian-archive-keyring"}
    assert packages <= listed
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in listed)


def test_the_archives_of_this_host_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("package archive", tmp_path).detail == "none configured", "there is no index"
    monkeypatch.delenv("APT_CONFIG")
    check = find("package archive", tmp_path)
    assert check.good is ("://" in check.detail) is (check.detail != "none configured"), check.detail


def test_too_little_space_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("disk space", tmp_path).detail.endswith("15 needed")
    monkeypatch.setattr(doctor, "NEEDED_DISK", 2**60)
    assert not find("disk space", tmp_path).good


def test_a_warm_cache_wants_less_space(tmp_path: Path) -> None:
    (tmp_path / "cache" / "tools").mkdir(parents=True)
    assert find("disk space", tmp_path).detail.endswith(", 5 needed")


def test_too_little_memory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_MEMORY", 2**60)
    assert not find("memory", tmp_path).good


def test_a_clock_in_the_past_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("clock", tmp_path).good
    monkeypatch.setattr(doctor, "EARLIEST_TIME", 2**40)
    assert not find("clock", tmp_path).good


@pytest.mark.parametrize(("release", "good"), [("trixie", True), ("bookworm", True), ("bullseye", False)])
def test_the_keyring_must_know_debian_13(
    release: str, good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"debian-archive-{release}-automatic.gpg").touch()
    monkeypatch.setattr(doctor, "KEYRINGS", (tmp_path, tmp_path / "absent"))
    assert find("Debian's keys", tmp_path).good is good


def test_certificates_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    check = find("certificates", tmp_path)
    assert not check.good
    assert check.package is None
    assert "absent.pem" in (check.fix or "")


def test_a_cache_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    checks = diagnose_host(Cache(tmp_path / "file" / "cache"), tmp_path)
    assert [check.good for check in checks if check.name == "cache"] == [False]


def test_secrets_in_urls_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "https://me:hush@proxy.example/go,direct")
    assert find("Go modules", tmp_path).detail == "https://proxy.example/go,direct"


def test_what_is_optional_is_not_asked_for() -> None:
    checks = [
        HostCheck("ssh", False, "connects to nodes", package="openssh-client"),
        HostCheck("zstd", False, "reads archives", required=False, package="zstd"),
        HostCheck("clock", False, "1970", fix="set it"),
    ]
    assert missing_packages(checks) == ["openssh-client"]
    assert render_checks(checks).splitlines() == [
        "✗ ssh    connects to nodes → package openssh-client",
        "- zstd   reads archives (optional) → package zstd",
        "✗ clock  1970 → set it",
        "",
        "To install what is missing:",
        f"  {install_line(['openssh-client'])}",
    ]


def test_only_root_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Error, match="only root") as caught:
        doctor.install_packages(["hello"])
    assert caught.value.hint == ("sudo apt-get update && sudo apt-get install --no-install-recommends --yes hello")

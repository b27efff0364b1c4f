"""Debian's archive as apt really reads it: a suite whose index does not match is never left out in silence."""

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.debian import MIRROR, SECURITY, SUITE, WITHOUT, PackageArchive
from osbuild.shared.errors import Error

PACKAGE = """Package: tiny
Version: {}
Architecture: all
Maintainer: Nobody <nobody@example.org>
Filename: pool/tiny.deb
Size: 1
SHA256: {}
Essential: yes
Description: tiny
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, format: str, *args: object) -> None:
        return


def suite(mirror: Path, name: str, version: str) -> Path:
    """A suite with one package; returns its index, which its Release file names by hash."""
    folder = mirror / "dists" / name / "main" / f"binary-{Architecture.native().to_debian()}"
    folder.mkdir(parents=True)
    index = folder / "Packages.gz"
    plain = PACKAGE.format(version, "0" * 64).encode()
    packed = gzip.compress(plain, mtime=0)
    index.write_bytes(packed)
    lines = "".join(
        f" {hashlib.sha256(data).hexdigest()} {len(data)} main/{folder.name}/{file}\n"
        for data, file in ((plain, "Packages"), (packed, "Packages.gz"))
    )
    (mirror / "dists" / name / "Release").write_text(
        f"Origin: Test\nSuite: {name}\nCodename: {name}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
        f"Architectures: {Architecture.native().to_debian()}\nComponents: main\n"
        f"SHA256:\n{lines}"
    )
    return index


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror on this machine, with updates; its list of sources is `mirror/sources`."""
    path = tmp_path / "mirror"
    suite(path, SUITE, "1.0")
    suite(path, SECURITY, "1.1")
    monkeypatch.delenv(WITHOUT, raising=False)
    monkeypatch.setenv(MIRROR, str(path / "sources"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        (path / "sources").write_text(
            f"deb [trusted=yes] {url} {SUITE} main\ndeb [trusted=yes] {url} {SECURITY} main\n"
        )
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def archive(tmp_path: Path) -> PackageArchive:
    return PackageArchive(Cache(tmp_path / "cache"), Architecture.native())


def versions(archive: PackageArchive) -> set[str]:
    return {deb.version for deb in archive.resolve_packages([])}


def stale(mirror: Path) -> None:
    """The mirror has a newer index already, and not yet the Release file that names it."""
    index = next((mirror / "dists" / SECURITY).rglob("Packages.gz"))
    index.write_bytes(index.read_bytes() + gzip.compress(b"\n"))


def test_security_updates_are_part_of_what_is_resolved(mirror: Path, archive: PackageArchive) -> None:
    assert archive.update_index() == ()
    assert versions(archive) == {"1.1"}


def test_an_index_that_does_not_match_is_an_error_that_says_how_to_go_on(mirror: Path, archive: PackageArchive) -> None:
    stale(mirror)
    with pytest.raises(Error, match=SECURITY) as caught:
        archive.update_index()
    assert f"--without {SECURITY}" in str(caught.value.hint) and WITHOUT in str(caught.value.hint)
    with pytest.raises(Error, match=SECURITY):
        archive.update_index(["trixie-updates"])


@pytest.mark.parametrize("how", ["option", "environment", "known by hash"])
def test_who_says_so_goes_on_without_it(
    how: str, mirror: Path, archive: PackageArchive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale(mirror)
    if how == "environment":
        monkeypatch.setenv(WITHOUT, f"other {SECURITY}")
    assert archive.update_index([SECURITY] if how == "option" else (), known=how == "known by hash") == (SECURITY,)
    assert SECURITY in capsys.readouterr().err
    assert versions(archive) == {"1.0"}


def test_a_mirror_without_security_updates_is_warned_of(
    mirror: Path, archive: PackageArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (mirror / "sources").read_text().splitlines()
    (mirror / "sources").write_text(lines[0] + "\n")
    assert archive.update_index() == (SECURITY,)
    assert "without the security updates" in capsys.readouterr().err

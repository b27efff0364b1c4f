"""Debian's archive as apt really reads it: a suite whose index does not match is never left out in silence."""

import gzip
import hashlib
import http.server
import stat
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.run import Argument, run_contained
from osbuild.inputs import debian
from osbuild.inputs.apt_sources import MIRROR, SUITE
from osbuild.inputs.debian import WITHOUT, PackageArchive
from osbuild.shared.errors import Error

SECURITY = f"{SUITE}-security"

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
def test_a_stale_suite_is_omitted_if_the_user_allows_it(
    how: str, mirror: Path, archive: PackageArchive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale(mirror)
    if how == "environment":
        monkeypatch.setenv(WITHOUT, f"other {SECURITY}")
    assert archive.update_index([SECURITY] if how == "option" else (), pinned=how == "known by hash") == (SECURITY,)
    assert SECURITY in capsys.readouterr().err
    assert versions(archive) == {"1.0"}


def test_a_mirror_without_security_updates_is_warned_of(
    mirror: Path, archive: PackageArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (mirror / "sources").read_text().splitlines()
    (mirror / "sources").write_text(lines[0] + "\n")
    assert archive.update_index() == (SECURITY,)
    assert "may lack security updates" in capsys.readouterr().err


def test_a_failed_update_keeps_the_index_that_was_there(mirror: Path, archive: PackageArchive) -> None:
    archive.update_index()
    next((mirror / "dists" / SUITE).rglob("Packages.gz")).unlink()
    with pytest.raises(Error):
        archive.update_index()
    assert versions(archive) == {"1.1"}
    assert [path.name for path in archive.root.parent.iterdir()] == [archive.root.name]


@pytest.mark.parametrize(
    "form", ["http://{}@{}", "deb [trusted=yes] http://{}@{} trixie main", "Types: deb\nURIs: http://{}@{}"]
)
def test_no_password_of_a_mirror_is_on_a_command_line_or_can_be_read_by_others(
    form: str, mirror: Path, archive: PackageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = (mirror / "sources").read_text().split("//")[1].split()[0]
    text = form.format("me:hidden-word", host)
    if text.startswith("Types"):
        text += f"\nSuites: {SUITE}\nComponents: main\nTrusted: yes\n"
    monkeypatch.setenv(MIRROR, text)
    seen: list[str] = []

    def spy(command: Sequence[Argument], **options: Any) -> str:
        seen.extend(map(str, command))
        if command[0] == "mmdebstrap":  # which leaves its keyring there if it is killed
            assert Path(options["env"]["TMPDIR"]).parent == archive.root.parent
        return run_contained(command, **options)

    monkeypatch.setattr(debian, "run_contained", spy)
    if form.startswith("http"):  # which is not trusted
        with pytest.raises(Error) as caught:
            archive.update_index()
        assert "hidden-word" not in str(caught.value)
    else:
        archive.update_index()
        assert versions(archive) == {"1.0"}
    assert seen and not any("hidden-word" in word for word in seen)
    assert stat.S_IMODE(archive.root.parent.stat().st_mode) == 0o700


def rewrite_index(mirror: Path, text: str) -> None:
    """Replace the index of the first suite, and its hashes in the Release file."""
    index = next((mirror / "dists" / SUITE).rglob("Packages.gz"))
    release = mirror / "dists" / SUITE / "Release"
    lines = release.read_text()
    plain, packed = text.encode(), gzip.compress(text.encode(), mtime=0)
    for before, after in ((gzip.decompress(index.read_bytes()), plain), (index.read_bytes(), packed)):
        was, now = (f"{hashlib.sha256(data).hexdigest()} {len(data)}" for data in (before, after))
        assert was in lines
        lines = lines.replace(was, now)
    index.write_bytes(packed)
    release.write_text(lines)


UNPINNABLE = {
    "other-hash": ("SHA256: " + "0" * 64, "MD5sum: " + "0" * 32),
    "bad-hash": ("SHA256: " + "0" * 64, "SHA256: ../../x"),
    "bad-version": ("Version: 1.0", "Version: 1.0/../../x"),
    "bad-size": ("Size: 1", "Size: 99999999999999999999999"),
}


def test_a_package_that_cannot_be_pinned_is_an_error_and_never_left_out(mirror: Path, archive: PackageArchive) -> None:
    (mirror / "sources").write_text((mirror / "sources").read_text().splitlines()[0] + "\n")
    good = PACKAGE.format("1.0", "0" * 64)
    optional = good.replace("Essential: yes\n", "")
    # Each has a file of its own: apt omits a file that is listed twice.
    packages = [optional.replace(old, new).replace("tiny", name) for name, (old, new) in UNPINNABLE.items()]
    rewrite_index(mirror, "\n".join([good, *packages]))
    archive.update_index()
    assert versions(archive) == {"1.0"}
    for name in UNPINNABLE:
        with pytest.raises(Error) as caught:
            archive.resolve_packages([name])
        assert "cannot be pinned" in caught.value.message and caught.value.hint, name
    # apt has no package of this name for the architecture, but it is essential.
    rewrite_index(mirror, good.replace("Architecture: all", "Architecture: a/../ll"))
    archive.update_index()
    with pytest.raises(Error, match="cannot be pinned") as caught:
        versions(archive)
    assert caught.value.hint


def test_an_older_index_of_the_same_mirror_is_an_error(mirror: Path, archive: PackageArchive) -> None:
    archive.update_index()
    release = mirror / "dists" / SECURITY / "Release"
    release.write_text(release.read_text().replace("01 Jan 2026", "31 Dec 2025"))
    with pytest.raises(Error, match=r"the index is of 2025-12-31 00:00, older .* of 2026-01-01") as caught:
        archive.update_index()
    assert str(archive.root) in str(caught.value.hint)
    release.write_text(release.read_text().replace("31 Dec 2025", "02 Jan 2026"))
    assert archive.update_index() == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Valid-Until: Fri, 02 Jan 2026 00:00:00 UTC", "not valid|expired"),
        ("Codename: bookworm", "bookworm, not trixie"),
    ],
)
def test_an_index_that_is_out_of_date_or_of_another_suite_is_an_error(
    line: str, message: str, mirror: Path, archive: PackageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "host_apt_settings", list)  # which may say that the first does not matter
    release = mirror / "dists" / SUITE / "Release"
    text = release.read_text()
    if line.startswith("Codename"):
        text = text.replace(f"Suite: {SUITE}\nCodename: {SUITE}\n", "")
    release.write_text(f"{line}\n{text}")
    with pytest.raises(Error, match=message):
        archive.update_index()


def test_an_unsigned_index_is_an_error(mirror: Path, archive: PackageArchive) -> None:
    (mirror / "sources").write_text((mirror / "sources").read_text().replace("[trusted=yes] ", ""))
    with pytest.raises(Error, match="not signed"):
        archive.update_index()

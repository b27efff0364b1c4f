"""What is in the cache is what was put there: damage is found by hash when it is used, and made or got again."""

import hashlib
import json
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osbuild.host import cache as caches
from osbuild.host.architecture import Architecture
from osbuild.host.cache import SUMS, Cache
from osbuild.host.scratch import remove_tree
from osbuild.inputs import download
from osbuild.inputs.debian import Deb, PackageArchive, make_repository, stored_path
from osbuild.inputs.wheels import Wheel, fetch_wheel, unpack_wheel
from osbuild.kubernetes import go_toolchain
from osbuild.shared.errors import Error
from osbuild.shared.files import create_file, sync_path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Each process looks at an entry once."""
    Cache._verified.clear()
    yield
    Cache._verified.clear()


def folder(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep/file").write_text("contents")
    (path / "link").symlink_to("deep/file")


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def flip(path: Path) -> None:
    """Another byte, the same size and time."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def relink(path: Path) -> None:
    (path / "link").unlink()
    (path / "link").symlink_to("deep")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path / "deep/file"),
        lambda path: (path / "deep/file").write_bytes(b""),
        lambda path: (path / "deep/file").unlink(),
        lambda path: (path / "more").touch(),
        relink,
    ],
)
def test_a_damaged_entry_is_made_again(
    damage: Callable[[Path], object], cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cache.get_or_make("kind", "key", folder)
    damage(path)
    Cache._verified.clear()
    assert cache.find_entry("kind", "key") is None
    assert "was damaged" in capsys.readouterr().err
    assert (cache.get_or_make("kind", "key", folder) / "deep/file").read_text() == "contents"
    assert (path / "link").readlink() == Path("deep/file")


OTHERS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "FIFO": os.mkfifo,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to the host": lambda path: path.symlink_to("/etc"),
    "empty file": Path.touch,
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("make", [folder, lambda path: path.write_text("contents")], ids=["folder", "file"])
def test_whatever_is_in_the_place_of_an_entry_is_replaced(
    other: str, make: Callable[[Path], None], cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cache.get_or_make("kind", "key", make)
    whole = caches.entry_digest(path)
    remove_tree(path)
    OTHERS[other](path)
    assert caches.entry_digest(cache.get_or_make("kind", "key", make)) == whole
    assert "was damaged" in capsys.readouterr().err


def test_an_entry_that_is_a_link_is_not_used_even_if_it_leads_to_the_same(cache: Cache, tmp_path: Path) -> None:
    """What is elsewhere may change after it was looked at."""
    path = cache.get_or_make("kind", "key", folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not cache.get_or_make("kind", "key", folder).is_symlink()
    assert (tmp_path / "elsewhere/deep/file").read_text() == "contents"


@pytest.mark.parametrize("other", OTHERS)
def test_whatever_is_in_the_place_of_a_download_or_package_is_replaced(
    other: str, cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = hashlib.sha256(b"right").hexdigest()
    (tmp_path / "release").write_bytes(b"right")
    deb = a_package(tmp_path)
    paths = [cache.folder(download.KIND) / sha256, stored_path(cache, deb)]
    for place in paths:
        OTHERS[other](place)
    assert (
        download.download_file([str(tmp_path / "release")], download.PinnedFile("x", sha256), cache).read_bytes()
        == b"right"
    )
    PackageArchive(cache, Architecture.native()).download_packages([deb], folder=tmp_path)
    assert hashlib.sha256(stored_path(cache, deb).read_bytes()).hexdigest() == deb.sha256
    assert capsys.readouterr().err.count("was damaged") == 2


def test_a_damaged_note_of_a_download_that_stopped_is_of_no_use(cache: Cache, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"right").hexdigest()
    part = cache.folder(download.KIND) / f"{sha256}.part"
    (tmp_path / "release").write_bytes(b"right")
    for text in ("[" * 100_000, "7", "\0"):
        part.mkdir()
        (part / "data").write_bytes(b"r")
        (part / "validator").write_text(text)
        with pytest.raises(download.Unavailable, match="refused"):
            download.download_file(["http://127.0.0.1:9/x"], download.PinnedFile("x", sha256), cache)
        remove_tree(part)
        part.write_text("not a folder")
        with pytest.raises(download.Unavailable, match="refused"):
            download.download_file(["http://127.0.0.1:9/x"], download.PinnedFile("x", sha256), cache)
        remove_tree(part)


def test_an_entry_that_is_as_it_was_made_is_used(cache: Cache) -> None:
    path = cache.get_or_make("kind", "key", folder)
    Cache._verified.clear()
    assert cache.find_entry("kind", "key") == path
    assert cache.find_entry("kind", "other") is None


def test_an_entry_of_an_older_version_is_noted_and_watched_from_then_on(cache: Cache) -> None:
    path = cache.get_or_make("kind", "key", folder)
    (cache.folder(SUMS) / "kind-key").unlink()
    Cache._verified.clear()
    assert cache.find_entry("kind", "key") == path
    flip(path / "deep/file")
    Cache._verified.clear()
    assert cache.find_entry("kind", "key") is None


def test_a_file_that_must_have_a_hash_has_it_or_does_not_appear(cache: Cache) -> None:
    sha256 = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(Error, match="expected"):
        cache.get_or_make("kind", sha256, lambda path: write(path, b"wrong"), sha256=sha256)
    assert not list(cache.folder("kind").iterdir())
    path = cache.get_or_make("kind", sha256, lambda path: write(path, b"right"), sha256=sha256)
    flip(path)
    Cache._verified.clear()
    assert cache.find_entry("kind", sha256, sha256=sha256) is None


@pytest.mark.parametrize("make", [folder, lambda path: path.write_text("contents")])
def test_an_entry_is_on_the_disk_before_it_has_its_name(
    make: Callable[[Path], None], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the note of its digest, and then its name."""
    happened: list[str] = []
    real, rename = caches.sync_to_disk, Path.rename

    def sync(path: Path) -> None:
        real(path)
        happened.append(f"sync {path.name}")

    def created(path: Path, data: bytes) -> None:
        assert SUMS in path.parts
        create_file(path, data)
        happened.append("sync note")

    def sync_names(path: Path) -> None:
        sync_path(path)
        if path.is_dir():  # a file is synced by `sync`
            happened.append(f"sync {path.name}")

    def renamed(path: Path, to: Path) -> Path:
        happened.append(f"rename {path.name}")
        return rename(path, to)

    monkeypatch.setattr(caches, "sync_to_disk", sync)
    monkeypatch.setattr(caches, "create_file", created)
    monkeypatch.setattr(caches, "sync_path", sync_names)
    monkeypatch.setattr(Path, "rename", renamed)
    cache.get_or_make("kind", "key", make)
    assert happened == ["sync out", "sync note", "rename out", "sync kind"]


def test_pruning_takes_the_note_with_the_entry(cache: Cache) -> None:
    cache.get_or_make("kind", "key", folder)
    cache.prune(("kind",), limit=0)
    assert not list(cache.folder(SUMS).iterdir())


def a_package(place: Path) -> Deb:
    (place / "tree/DEBIAN").mkdir(parents=True)
    (place / "tree/DEBIAN/control").write_text(
        "Package: tiny\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: tiny\n"
    )
    path = place / "tiny_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", place / "tree", path], check=True)
    return Deb("tiny", "1.0", "all", hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def test_a_damaged_package_is_got_again_and_the_repositories_made_of_it_too(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deb = a_package(tmp_path)
    archive = PackageArchive(cache, Architecture.native())
    archive.download_packages([deb], folder=tmp_path)
    linked = make_repository(cache, [deb]) / deb.filename
    flip(stored_path(cache, deb))
    assert linked.read_bytes() == stored_path(cache, deb).read_bytes(), "they are one file"
    Cache._verified.clear()
    archive.download_packages([deb], folder=tmp_path)
    linked = make_repository(cache, [deb]) / deb.filename
    for path in (stored_path(cache, deb), linked):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == deb.sha256
    assert "tiny_1.0_all.deb was damaged in the cache" in capsys.readouterr().err


def a_wheel(place: Path) -> Wheel:
    with zipfile.ZipFile(place / "made.whl", "w") as archive:
        archive.writestr("tiny/__init__.py", "print('hello')\n")
    pin = Wheel("tiny", "1.0", "any", hashlib.sha256((place / "made.whl").read_bytes()).hexdigest())
    (place / "made.whl").rename(place / pin.filename)
    return pin


@pytest.mark.parametrize("unpack", [False, True])
def test_a_damaged_wheel_is_got_again_packed_or_unpacked(unpack: bool, cache: Cache, tmp_path: Path) -> None:
    pin = a_wheel(tmp_path)
    module = unpack_wheel(cache, pin, tmp_path) / "tiny/__init__.py"
    flip(module if unpack else fetch_wheel(cache, pin, tmp_path))
    Cache._verified.clear()
    assert (unpack_wheel(cache, pin, tmp_path) / "tiny/__init__.py").read_text() == "print('hello')\n"
    assert hashlib.sha256(fetch_wheel(cache, pin, tmp_path).read_bytes()).hexdigest() == pin.sha256


GREETING = 'package greet\n\nfunc Hello() string { return "hello" }\n'


def proxy(place: Path) -> None:
    """A module as a proxy has it (go.dev/ref/mod, "GOPROXY protocol"): example.org/Greet, with a capital letter."""
    versions = place / "go/cache/download/example.org/!greet/@v"
    versions.mkdir(parents=True)
    (versions / "list").write_text("v1.0.0\n")
    (versions / "v1.0.0.info").write_text(json.dumps({"Version": "v1.0.0", "Time": "2024-01-01T00:00:00Z"}))
    (versions / "v1.0.0.mod").write_text("module example.org/Greet\n\ngo 1.21\n")
    with zipfile.ZipFile(versions / "v1.0.0.zip", "w") as archive:
        archive.writestr("example.org/Greet@v1.0.0/go.mod", "module example.org/Greet\n\ngo 1.21\n")
        archive.writestr("example.org/Greet@v1.0.0/greet.go", GREETING)


def program(place: Path) -> Path:
    place.mkdir()
    (place / "go.mod").write_text("module example.org/program\n\ngo 1.21\n\nrequire example.org/Greet v1.0.0\n")
    (place / "main.go").write_text(
        'package main\n\nimport greet "example.org/Greet"\n\nfunc main() { print(greet.Hello()) }\n'
    )
    return place


def test_a_damaged_go_module_is_got_again(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("GOPROXY", "off"), ("GONOSUMDB", "example.org"), ("GOFLAGS", "-modcacherw")):
        monkeypatch.setenv(name, value)
    proxy(tmp_path)
    goroot = go_toolchain.unpack_toolchain(Cache())  # from the tests' own cache: 70 MB
    monkeypatch.setattr(go_toolchain, "unpack_toolchain", lambda *_: goroot)
    compiled = Cache().folder("go") / "build"  # Go's own packages: compiling them takes six seconds
    compiled.mkdir(exist_ok=True)
    (cache.folder("go") / "build").symlink_to(compiled)
    source = program(tmp_path / "program")
    env = go_toolchain.go_environment(cache, goroot, Architecture.native(), tmp_path)
    tidy = {**env, "GOFLAGS": "-mod=mod -modcacherw"}
    subprocess.run([goroot / "bin/go", "mod", "tidy"], cwd=source, env=tidy, check=True, capture_output=True)

    def said() -> str:
        output = tmp_path / "output"
        go_toolchain.build_program(
            go_toolchain.GoProgram(source), output, Architecture.native(), cache, folder=tmp_path
        )
        return subprocess.run([output], capture_output=True, text=True, check=True).stderr

    assert said() == "hello"
    module = cache.folder("go") / "mod/example.org/!greet@v1.0.0/greet.go"
    archive = cache.folder("go") / "mod/cache/download/example.org/!greet/@v/v1.0.0.zip"
    module.write_text(GREETING.replace("hello", "hollo"))
    assert said() == "hello" and module.read_text() == GREETING
    flip(archive)
    assert (
        said() == "hello"
        and archive.read_bytes() == (tmp_path / "go" / archive.relative_to(cache.root / "go/mod")).read_bytes()
    )
    assert capsys.readouterr().err.count("example.org/Greet v1.0.0 was damaged in the cache") == 2

"""K3s at build time: any release by its checksum file or the profile's sha256, and its programs unpacked unrun."""

import functools
import gzip
import hashlib
import http.server
import io
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from osbuild.config.board import load_board
from osbuild.config.load import load_profile
from osbuild.config.profile import KubernetesSettings
from osbuild.formats.compression import ZSTD
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.context import BuildContext
from osbuild.inputs.download import Unavailable
from osbuild.inputs.lock import LockedKubernetes
from osbuild.kubernetes import component, image_archive, k3s_payload, k3s_pins, k3s_release
from osbuild.kubernetes.distribution import ComponentSources, Pin
from osbuild.kubernetes.k3s_distribution import COMMAND
from osbuild.kubernetes.registry import DISTRIBUTIONS
from osbuild.pipeline import resolve
from osbuild.sandbox import tools_tree
from osbuild.shared.errors import Error

X86 = Architecture.x86_64
VERSION = "v1.99.1+k3s2"  # of which this program knows nothing
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there
UNPACKERS = ("zstd",)


def frame(data: bytes, *, checksum: bool = False) -> bytes:
    """A Zstandard frame of stored blocks and, for one block, a run (RFC 8878, section 3.1.1)."""
    blocks = [data[at : at + 65536] for at in range(0, len(data), 65536)] or [b""]
    encoded = ZSTD + bytes([0x04 if checksum else 0, 0x38])  # a window of 128 KiB
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        run = bool(block) and block == block[:1] * len(block)
        encoded += (len(block) << 3 | run << 1 | last).to_bytes(3, "little") + (block[:1] if run else block)
    return encoded + (b"sum!" if checksum else b"")


def elf(architecture: Architecture, content: bytes = b"") -> bytes:
    return b"\x7fELF" + bytes(14) + k3s_payload.MACHINES[architecture].to_bytes(2, "little") + content


def archive(architecture: Architecture, *, without: str = "") -> bytes:
    """What a release has in it, small."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        files = {"k3s": elf(architecture, b"inner"), "cni": elf(architecture, b"cni"), "aux/ipset": b"ipset",
                 "runc": b"runc", "containerd-shim-runc-v2": b"shim", ".links": b"text"}  # fmt: skip
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./bin/{name}")
            entry.size, entry.mode, entry.uid = len(data), 0o700, 1000
            if name != without:
                tar.addfile(entry, io.BytesIO(data))
        for name, target in {"flannel": "cni", "host-local": "cni", "kubectl": "k3s", "aux/xtables": "ipset"}.items():
            entry = tarfile.TarInfo(f"./bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name in ("/bin/evil", "../evil", "etc/evil"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return output.getvalue()


def binary(architecture: Architecture, packed: bytes, name: str | None = None) -> bytes:
    """A program with `packed` embedded, as Go's linker lays it out: other things that look alike before it."""
    digest = name or hashlib.sha256(packed).hexdigest()
    decoys = b"0" * 64 + b".tar.zst" + ZSTD + b"\x00\x38\x07\x00\x00" + frame(b"another") + ZSTD
    return elf(architecture, decoys + f"embed/{digest}.tar.zst".encode() + b"\0" * 7 + packed + b"rest" + ZSTD)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def cache_with_go(cache: Cache) -> Cache:
    """A new cache that has the user's Go toolchain: to unpack it and to compile the standard library takes 20 s."""
    cache.root.mkdir()
    for kind in ("go", "wheels", "locks"):  # locks: another process may make an entry at the same time
        (cache.root / kind).symlink_to(Cache().folder(kind))
    return cache


@pytest.fixture(autouse=True)
def no_release_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k3s_release, "RELEASES", NOWHERE)
    for name in (k3s_release.MIRROR, "EDGE_OSBUILD_FOLDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server laid out like the release page with one release: its URL, and the release's folder."""
    folder = tmp_path / "page" / VERSION
    folder.mkdir(parents=True)
    content = {name: binary(arch, frame(archive(arch))) for arch, name in k3s_pins.ASSETS.items()}
    for arch, name in k3s_pins.ASSETS.items():
        (folder / name).write_bytes(content[name])
        listed = f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n{'0' * 64}  k3s-airgap-images-{arch}.tar\n"
        (folder / f"sha256sum-{arch.to_go()}.txt").write_text(listed)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "page"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("architecture", list(Architecture))
def test_the_sha256_of_any_release_comes_from_its_checksum_file_and_is_pinned(
    page: tuple[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch, architecture: Architecture
) -> None:
    url, folder = page
    monkeypatch.setenv(k3s_release.MIRROR, f"{NOWHERE} {url}/")
    settings = KubernetesSettings(role="server", version=VERSION, if_unavailable="upstream")
    pinned = resolve.pin_kubernetes(settings, architecture, BuildContext(cache))
    name = k3s_pins.ASSETS[architecture]
    sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert pinned == LockedKubernetes(distribution="k3s", version=VERSION, files={f"{name}-{VERSION}": sha256})


@pytest.mark.parametrize("layout", ["named", "release"])
def test_a_folder_is_enough_for_a_release_that_is_not_known_here(
    page: tuple[str, Path], cache: Cache, tmp_path: Path, layout: str
) -> None:
    _, folder = page
    goal = tmp_path / "airgap"
    for name in ("k3s", "sha256sum-amd64.txt"):
        target = goal / f"{name}-{VERSION}" if layout == "named" else goal / VERSION / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / name).read_bytes())
    pinned = resolve.pin_kubernetes(KubernetesSettings(role="server", version=VERSION), X86, BuildContext(cache, goal))
    assert pinned and pinned.version == VERSION


def test_the_profiles_sha256_is_used_and_no_checksum_file_is_read(
    page: tuple[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = page
    (folder / "sha256sum-amd64.txt").unlink()
    monkeypatch.setenv(k3s_release.MIRROR, url)
    digest = hashlib.sha256((folder / "k3s").read_bytes()).hexdigest().upper()
    settings = KubernetesSettings(role="server", version=VERSION, sha256={"x86_64": digest})
    assert (
        k3s_release.download_release(k3s_release.find_release(settings, X86), cache).read_bytes()
        == (folder / "k3s").read_bytes()
    )
    wrong = replace(settings, sha256={"x86_64": "1" * 64})
    with pytest.raises(Error, match="not the pinned file"):
        resolve.pin_kubernetes(replace(wrong, if_unavailable="upstream"), X86, BuildContext(cache))


def test_a_release_that_does_not_exist_is_an_error_and_not_replaced_by_upstream(
    page: tuple[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k3s_release, "RELEASES", page[0])
    settings = KubernetesSettings(role="server", version="v1.99.7+k3s1", if_unavailable="upstream")
    with pytest.raises(Error, match=r"there is no K3s release v1\.99\.7\+k3s1") as caught:
        resolve.pin_kubernetes(settings, X86, BuildContext(cache))
    assert not isinstance(caught.value, Unavailable)


def test_a_release_that_cannot_be_reached_names_every_way_out_or_becomes_upstream(cache: Cache) -> None:
    settings = KubernetesSettings(role="server", version=VERSION)
    with pytest.raises(Unavailable) as caught:
        resolve.pin_kubernetes(settings, X86, BuildContext(cache))
    for way in (
        "kubernetes.sha256: {x86_64",
        "sha256sum-amd64.txt",
        "--from FOLDER",
        k3s_release.MIRROR,
        "https_proxy",
    ):
        assert way in str(caught.value.hint)
    pinned = resolve.pin_kubernetes(replace(settings, if_unavailable="upstream"), X86, BuildContext(cache))
    assert pinned and (pinned.distribution, pinned.requested) == ("upstream", f"k3s {VERSION}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0" * 64 + b"  k3s-arm64\n", "no line for k3s"),
        (b"\xff\xfe", "text file"),
        (b"x" * 70000, "more than"),
        (b"0" * 64 + b"  k3s\n" + b"1" * 64 + b" *./k3s\n", "two different lines for k3s"),
    ],
)
def test_a_checksum_file_of_something_else_is_refused(
    page: tuple[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    url, folder = page
    (folder / "sha256sum-amd64.txt").write_bytes(content)
    monkeypatch.setenv(k3s_release.MIRROR, url)
    with pytest.raises(Error, match=message):
        k3s_release.find_release(KubernetesSettings(role="server", version=VERSION), X86)


@pytest.mark.parametrize(
    "line", [b"SHA256 (k3s) = %s", b"%s  ./k3s", b"%s *k3s", b"\xef\xbb\xbf%s  k3s", b"%s  k3s\n%s  k3s"]
)
def test_every_form_of_a_checksum_file_is_accepted(
    page: tuple[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    url, folder = page
    digest = "ab" * 32
    (folder / "sha256sum-amd64.txt").write_bytes(line.replace(b"%s", digest.encode()) + b"\n")
    monkeypatch.setenv(k3s_release.MIRROR, url)
    assert k3s_release.find_release(KubernetesSettings(role="server", version=VERSION), X86).sha256 == digest


def test_a_binary_for_another_architecture_is_refused_when_it_is_locked(
    page: tuple[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = page
    monkeypatch.setenv(k3s_release.MIRROR, url)
    digest = hashlib.sha256((folder / "k3s-arm64").read_bytes()).hexdigest()
    (folder / "k3s").write_bytes((folder / "k3s-arm64").read_bytes())
    settings = KubernetesSettings(role="server", version=VERSION, sha256={"x86_64": digest})
    with pytest.raises(Error, match="not for x86_64"):
        resolve.pin_kubernetes(settings, X86, BuildContext(cache))


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("architecture", list(Architecture))
def test_the_archive_inside_is_found_by_the_sha256_in_its_name(
    tmp_path: Path, architecture: Architecture, checksum: bool
) -> None:
    packed = frame(archive(architecture) + bytes(70000), checksum=checksum)
    (tmp_path / "k3s").write_bytes(binary(architecture, packed))
    payload = k3s_payload.find_payload(tmp_path / "k3s")
    assert (payload.size, payload.sha256) == (len(packed), hashlib.sha256(packed).hexdigest())
    content = (tmp_path / "k3s").read_bytes()
    assert content[payload.offset : payload.offset + payload.size] == packed


def test_an_archive_of_several_frames_is_found_as_a_whole(tmp_path: Path) -> None:
    packed = frame(b"first" * 30) + frame(b"second", checksum=True)
    (tmp_path / "k3s").write_bytes(binary(X86, packed))
    assert k3s_payload.find_payload(tmp_path / "k3s").size == len(packed)


def changed(data: bytes) -> bytes:
    """`data` with one bit of the archive's last block turned."""
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (binary(X86, frame(b"data"), name="a" * 64), "no embedded archive has the sha256"),
        (changed(binary(X86, frame(b"data" * 9))), "no embedded archive has the sha256"),
        (binary(X86, frame(b"data" * 99))[:-200], "no embedded archive has the sha256"),
        (elf(X86, b"\0" * 100), "has no embedded archive"),
    ],
)
def test_an_archive_that_is_not_what_its_name_says_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "k3s").write_bytes(content)
    with pytest.raises(Error, match=message):
        k3s_payload.find_payload(tmp_path / "k3s")


def unpackers() -> tools_tree.ToolsTree:
    """The tree with zstd. Made once, as builds make theirs."""
    return tools_tree.unlocked_tools_tree(Cache(), "k3s-tests", UNPACKERS, "tools that unpack K3s")


def test_the_programs_are_unpacked_without_being_run_and_with_fixed_modes(tmp_path: Path, cache: Cache) -> None:
    arm = Architecture.armv7  # this host can't run it
    (tmp_path / "k3s").write_bytes(binary(arm, frame(archive(arm))))
    tree = k3s_payload.unpack_payload(tmp_path / "k3s", "1" * 64, arm, cache, unpackers())
    files = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if not path.is_dir()}
    assert files == {"bin/k3s", "bin/cni", "bin/flannel", "bin/host-local", "bin/aux/ipset", "bin/aux/xtables"}
    assert (tree / "bin/flannel").readlink() == Path("cni")
    assert {path.stat().st_mode & 0o7777 for path in tree.rglob("*") if path.is_file()} == {0o755}


@pytest.mark.parametrize(("without", "message"), [("cni", "no bin/cni"), ("k3s", "no bin/k3s")])
def test_an_archive_that_lacks_a_program_is_refused(tmp_path: Path, cache: Cache, without: str, message: str) -> None:
    (tmp_path / "k3s").write_bytes(binary(X86, frame(archive(X86, without=without))))
    with pytest.raises(Error, match=message):
        k3s_payload.unpack_payload(tmp_path / "k3s", "1" * 64, X86, cache, unpackers())


def test_the_search_for_the_archive_ends_in_a_file_of_tiny_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = 10  # the real limit takes some seconds
    monkeypatch.setattr(k3s_payload, "MOST_STEPS", k3s_payload.MOST_STEPS // share)
    name = b"0" * 64 + b".tar.zst"
    (tmp_path / "k3s").write_bytes(elf(X86, name) + frame(b"") * 4_000)
    begin = time.process_time()
    with pytest.raises(Error, match="too many beginnings"):
        k3s_payload.find_payload(tmp_path / "k3s")
    assert time.process_time() - begin < 60 / share


def test_an_archive_that_is_too_large_when_it_is_unpacked_is_refused(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k3s").write_bytes(binary(X86, frame(archive(X86))))
    monkeypatch.setattr(k3s_payload, "LARGEST", 20000)
    with pytest.raises(Error, match="archive has more than 20000 bytes when it is unpacked"):
        k3s_payload.unpack_payload(tmp_path / "k3s", "2" * 64, X86, cache, unpackers())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        sparse = tarfile.TarInfo("bin/k3s")
        sparse.size, sparse.pax_headers = 4, {"GNU.sparse.map": "0,4", "GNU.sparse.size": "20001"}
        tar.addfile(sparse, io.BytesIO(b"data"))
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar, pytest.raises(tarfile.TarError, match="more than 20000"):
        list(k3s_payload.used_members(tar))


def test_an_archive_with_a_link_out_of_it_is_refused(tmp_path: Path, cache: Cache) -> None:
    data = io.BytesIO(archive(X86))
    with tarfile.open(fileobj=data, mode="a") as tar:
        link = tarfile.TarInfo("bin/aux/out")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../../elsewhere"
        tar.addfile(link)
    (tmp_path / "k3s").write_bytes(binary(X86, frame(data.getvalue())))
    with pytest.raises(Error, match="cannot be unpacked"):
        k3s_payload.unpack_payload(tmp_path / "k3s", "1" * 64, X86, cache, unpackers())


def test_the_image_gets_the_inner_program_its_plugins_and_no_wrapper(
    page: tuple[str, Path], cache_with_go: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(k3s_release.MIRROR, page[0])
    settings = KubernetesSettings(role="server", version=VERSION)
    built = component.build_component(settings, X86, ComponentSources(BuildContext(cache_with_go), unpackers))
    for name in ("kubectl", "crictl"):
        link = built.file_tree / "usr/bin" / name
        assert not link.readlink().is_absolute()
        assert link.read_bytes() == elf(X86, b"inner")
    command = built.file_tree / "usr/bin/k3s"
    assert command.read_text() == COMMAND.read_text()
    assert command.stat().st_mode & 0o777 == 0o755
    config = (built.file_tree / "etc/containerd/config.toml").read_text()
    assert 'bin_dir = "/usr/lib/k3s/bin"' in config
    assert (built.file_tree / "usr/lib/k3s/bin/flannel").exists()
    assert "/etc/rancher/node" in (built.file_tree / "usr/lib/edge-osbuild/persist.d/k3s").read_text().split()
    assert built.version == VERSION


def offer_airgap_images(folder: Path, architecture: Architecture) -> Path:
    """Add an archive of container images to a release, and return its path."""
    plain = folder / "images.tar"
    image = image_archive.SmallImage(
        name="docker.io/rancher/mirrored-coredns-coredns:1.14.7",
        files={"coredns": (b"dns", 0o755)},
        entrypoint=["/coredns"],
    )
    image_archive.write_image(plain, image, architecture)
    archive = folder / k3s_release.airgap_asset(X86)
    archive.write_bytes(frame(plain.read_bytes()))
    with (folder / "sha256sum-amd64.txt").open("a") as sums:
        sums.write(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n")
    return archive


def test_the_images_of_the_add_ons_are_pinned_and_baked_in(
    page: tuple[str, Path], cache_with_go: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = page
    monkeypatch.setenv(k3s_release.MIRROR, url)
    archive = offer_airgap_images(folder, X86)
    own, packed = folder / "own.tar", folder / "own.tar.gz"
    image_archive.write_image(own, image_archive.SmallImage(name="localhost/own:1", files={}, entrypoint=["/own"]), X86)
    packed.write_bytes(gzip.compress(own.read_bytes()))
    settings = KubernetesSettings(role="server", version=VERSION, airgap=True, images=(str(packed),))
    context = BuildContext(cache_with_go)
    pinned = resolve.pin_kubernetes(settings, X86, context)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert pinned and pinned.files[f"{archive.name}-{VERSION}"] == digest
    (folder / "sha256sum-amd64.txt").unlink()  # the lock is enough
    locked = DISTRIBUTIONS["k3s"].locked_settings(settings, X86, Pin(pinned.version, pinned.files))
    built = component.build_component(locked, X86, ComponentSources(context, unpackers))
    images = built.file_tree / "usr/lib/edge-osbuild/images"
    assert (images / "own.tar").read_bytes() == own.read_bytes()
    plain = (images / "k3s-airgap-images.tar").read_bytes()
    assert frame(plain) == archive.read_bytes(), "decompressed: containerd reads no compressed archive"
    assert (images / "k3s-airgap-images.sha256").read_text() == f"{hashlib.sha256(plain).hexdigest()}\n"
    assert (images / "k3s-airgap-images.names").read_text() == "docker.io/rancher/mirrored-coredns-coredns:1.14.7\n"


def test_images_for_another_architecture_are_refused(
    page: tuple[str, Path], cache_with_go: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = page
    monkeypatch.setenv(k3s_release.MIRROR, url)
    offer_airgap_images(folder, Architecture.arm64)
    settings = KubernetesSettings(role="server", version=VERSION, airgap=True)
    with pytest.raises(Error, match="has no image for amd64"):
        component.build_component(settings, X86, ComponentSources(BuildContext(cache_with_go), unpackers))


def test_a_release_without_images_is_refused_when_it_is_locked(
    page: tuple[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(k3s_release.MIRROR, page[0])
    settings = KubernetesSettings(role="server", version=VERSION, airgap=True)
    with pytest.raises(Error, match=r"no line for k3s-airgap-images-amd64\.tar\.zst"):
        resolve.pin_kubernetes(settings, X86, BuildContext(cache))


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["kubectl", "get", "nodes"], "/usr/bin/kubectl get nodes"),
        (["crictl", "ps"], "/usr/bin/crictl ps"),
        (["ctr", "images", "ls"], "/usr/bin/ctr images ls"),
        (["server"], "/usr/lib/k3s/bin/k3s server"),
        ([], "/usr/lib/k3s/bin/k3s "),
    ],
)
def test_the_command_k3s_runs_what_k3s_own_wrapper_would(tmp_path: Path, arguments: list[str], program: str) -> None:
    """Its programs are replaced by a shell script's `echo`, since the paths are those of a device."""
    script = tmp_path / "k3s"
    script.write_text(COMMAND.read_text().replace("exec ", 'exec env echo "$K3S_DATA_DIR" "$PATH" '))
    result = subprocess.run(["sh", script, *arguments], capture_output=True, text=True, check=True)
    data, path, output = result.stdout.rstrip("\n").split(" ", 2)
    assert (data, output.strip()) == ("/var/lib/kubernetes", program.strip())
    assert path.split(":")[0] == "/usr/lib/k3s/bin", "K3s looks for host-local there"
    assert path.split(":")[-1] == "/usr/lib/k3s/bin/aux"


def profile(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "p.yaml"
    path.write_text(f"name: p\nversion: 1.0.0\nextends: edge-server\nkubernetes:\n  {text}\n")
    return load_profile(path)


def test_the_cni_plugins_of_debian_are_only_in_images_that_use_them(tmp_path: Path) -> None:
    loaded = profile(tmp_path, f"version: {VERSION}")
    assert "containernetworking-plugins" not in resolve.wanted_packages(loaded)
    assert "containernetworking-plugins" in resolve.wanted_packages(loaded, "upstream"), (
        "what replaces a missing K3s needs them"
    )
    upstream = profile(tmp_path, "distribution: upstream\n  version: null\n  if_unavailable: null")
    assert "containernetworking-plugins" in resolve.wanted_packages(upstream)


def test_a_new_sha256_in_the_profile_makes_the_lock_anew(tmp_path: Path) -> None:
    board = load_board("x86_64")
    keys = {
        resolve.request_key(profile(tmp_path, f"version: {VERSION}\n  sha256: {{x86_64: {digit * 64}}}"), board)
        for digit in "abc"
    }
    other = profile(tmp_path, f"version: {VERSION}\n  sha256: {{x86_64: {'a' * 64}, arm64: {'d' * 64}}}")
    assert len(keys) == 3
    assert resolve.request_key(other, board) in keys, "another architecture's does not count"

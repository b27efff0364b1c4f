"""The build side: K3s' release from a server laid out like its page, what can be built instead, content keys."""

import functools
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from osbuild.agent.kubernetes.versions import KubernetesVersion, refuse_version
from osbuild.config import upstream_versions
from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.context import BuildContext
from osbuild.inputs.download import Unavailable
from osbuild.kubernetes import go_toolchain, image_archive, k3s_pins, k3s_release, upstream_programs
from osbuild.kubernetes.component import build_component, component_key
from osbuild.kubernetes.distribution import ComponentSources
from osbuild.pipeline import resolve
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

X86 = Architecture.x86_64
VERSION = "v1.35.0+k3s1"
PAYLOAD = b"\x7fELF" + bytes(range(256)) * 4096
BLOCK = KubernetesSettings(role="server", version=VERSION)
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a server with a release of K3s, whose pin is that of its content."""
    folder = tmp_path / "page" / VERSION
    folder.mkdir(parents=True)
    (folder / "k3s").write_bytes(PAYLOAD)
    monkeypatch.setitem(k3s_pins.K3S, VERSION, {X86: hashlib.sha256(PAYLOAD).hexdigest()})
    monkeypatch.setattr(k3s_release, "RELEASES", NOWHERE)
    monkeypatch.delenv(k3s_release.MIRROR, raising=False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "page"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def no_tools() -> ToolsTree:
    pytest.fail("nothing is to be unpacked")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_the_binary_comes_from_the_release_page(page: str, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k3s_release, "RELEASES", page)
    assert k3s_release.download_release(k3s_release.find_release(BLOCK, X86), cache).read_bytes() == PAYLOAD


def test_a_mirror_is_asked_before_the_release_page(page: str, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(k3s_release.MIRROR, page + "/")
    assert k3s_release.download_release(k3s_release.find_release(BLOCK, X86), cache).read_bytes() == PAYLOAD


def test_a_folder_is_enough(page: str, cache: Cache, tmp_path: Path) -> None:
    chosen = k3s_release.find_release(BLOCK, X86)
    (tmp_path / "airgap").mkdir()
    (tmp_path / "airgap" / chosen.filename).write_bytes(PAYLOAD)
    assert k3s_release.download_release(chosen, cache, tmp_path / "airgap").read_bytes() == PAYLOAD


def test_wrong_content_is_an_error_and_not_replaced_by_upstream(
    page: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(k3s_release.MIRROR, page)
    monkeypatch.setitem(k3s_pins.K3S, VERSION, {X86: "0" * 64})
    settings = KubernetesSettings(role="server", version=VERSION, if_unavailable="upstream")
    with pytest.raises(Error, match="not the pinned file") as caught:
        build_component(settings, X86, ComponentSources(BuildContext(cache), no_tools))
    assert not isinstance(caught.value, Unavailable)


def test_what_cannot_be_reached_is_found_out_at_once_and_every_way_out_is_named(page: str, cache: Cache) -> None:
    begin = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        build_component(BLOCK, X86, ComponentSources(BuildContext(cache), no_tools))
    assert time.monotonic() - begin < 10
    hint = str(caught.value.hint)
    for way in ("https_proxy", k3s_release.MIRROR, f"k3s-{VERSION}", "--from FOLDER", "if_unavailable: upstream"):
        assert way in hint


@pytest.mark.parametrize(("version", "hint"), [("v1.36.99", "v1.36.3"), (VERSION, "v1.36.3")])
def test_an_unknown_version_is_answered_with_the_known(cache: Cache, version: str, hint: str) -> None:
    with pytest.raises(Error) as caught:
        build_component(
            KubernetesSettings(role="server", distribution="upstream", version=version),
            X86,
            ComponentSources(BuildContext(cache), no_tools),
        )
    assert hint in str(caught.value.hint)


def test_every_release_is_pinned_for_every_architecture() -> None:
    for release in k3s_pins.K3S.values():
        assert set(release) == set(Architecture)
        assert all(len(sha256) == 64 for sha256 in release.values())


def test_the_releases_that_can_be_built_have_every_staging_module_replaced() -> None:
    for release in upstream_versions.list_releases():
        text = (release.folder / "go.mod").read_text()
        staging = "v0" + release.version[2:]
        replaced = [line.split()[0] for line in text.splitlines() if f"=> k8s.io/{line.split('/')[-1]}" in line]
        assert f"k8s.io/api => k8s.io/api {staging}" in text
        assert text.count(f" {staging}\n") >= len(replaced)
        assert f"k8s.io/kubernetes {release.version} h1:" in (release.folder / "go.sum").read_text()


def test_a_profile_that_names_a_release_gets_that_one_and_one_that_names_none_the_newest(cache: Cache) -> None:
    newest, before = upstream_versions.list_releases()[:2]
    pinned = {}
    for version, expected in ((None, newest), (newest.version, newest), (before.version, before)):
        settings = KubernetesSettings(role="server", distribution="upstream", version=version)
        pins = resolve.pin_kubernetes(settings, X86, BuildContext(cache))
        assert pins and pins.version == expected.version
        pinned[expected.version] = (
            pins.files["go.sum"],
            component_key(settings, X86),
            tuple(upstream_programs.linker_variables(expected)),
        )
    for first, second in zip(*pinned.values(), strict=True):
        assert first != second


def test_a_node_can_be_updated_from_each_release_that_can_be_built_to_the_next() -> None:
    newest, before = (KubernetesVersion("upstream", one.version) for one in upstream_versions.list_releases()[:2])
    assert before.minor == (newest.minor[0], newest.minor[1] - 1)
    assert refuse_version(before, str(newest)) is None


def test_the_content_key_changes_with_each_input(tmp_path: Path) -> None:
    manifest = tmp_path / "app.yaml"
    manifest.write_text("kind: Namespace\n")
    archive = tmp_path / "app.tar"
    image = image_archive.SmallImage(name="localhost/app:1", files={}, entrypoint=["/app"])
    image_archive.write_image(archive, replace(image, files={"app": (b"1", 0o755)}), X86)
    base = KubernetesSettings(role="server", distribution="upstream", manifests=("app.yaml",), images=("app.tar",))
    keys = [component_key(base, X86, base=tmp_path)]
    keys.append(component_key(base, Architecture.arm64, base=tmp_path))
    keys.append(component_key(replace(base, images=("app.tar", "demo")), X86, base=tmp_path))
    keys.append(component_key(replace(base, distribution="k3s"), X86, base=tmp_path))
    manifest.write_text("kind: Secret\n")
    keys.append(component_key(base, X86, base=tmp_path))
    image_archive.write_image(archive, replace(image, files={"app": (b"2", 0o755)}), X86)
    keys.append(component_key(base, X86, base=tmp_path))
    assert len(set(keys)) == len(keys)


def test_seed_only_settings_do_not_change_the_content_key() -> None:
    one = KubernetesSettings(role="server", distribution="upstream", labels={"a": "b"}, node_ip="192.0.2.1")
    assert component_key(one, X86) == component_key(KubernetesSettings(role="server", distribution="upstream"), X86)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", []),
        ("-buildvcs=false -modcacherw", ["-modcacherw"]),
        ("-mod=vendor -p=2 -ldflags=-w '-tags=a b'", ["-p=2"]),
    ],
)
def test_of_the_users_go_flags_only_harmless_ones_are_kept(given: str, kept: list[str]) -> None:
    assert go_toolchain.harmless_flags(given) == kept


@pytest.mark.parametrize("flags", ["-p=1 'x", '-p=1 "', "-p=1 \\"])
def test_go_flags_that_cannot_be_split_are_one_clear_error(flags: str) -> None:
    with pytest.raises(Error, match="GOFLAGS: the flags cannot be split") as caught:
        go_toolchain.harmless_flags(flags)
    assert caught.value.hint

"""Bundles, as far as no RAUC is needed: sources, content, configuration, what is told of bad input."""

import configparser
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuild import cli
from osbuild.bundle import content, info, source
from osbuild.cli.bundle import bundle_paths, with_permissions
from osbuild.cli.comparison import comparison_lines
from osbuild.host.cache import Cache
from osbuild.image import update_trust
from osbuild.image.rauc_config import CONFIG, KEYRING_FILE, render_system_conf
from osbuild.inspection import update_changes
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.shared.errors import Error, UsageError
from tests.support.builds import make_build, random_blocks


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return parser


def test_the_manifest_names_board_and_version_and_the_boot_file_comes_before_the_root(tmp_path: Path) -> None:
    cluster = {"name": "kubernetes", "version": "v1.36.3", "distribution": "upstream"}
    build = source.read_build(
        make_build(tmp_path / "b", version="1.2.3", metadata={"board": "rpi4", "components": [cluster]})
    )
    manifest = parsed(content.render_manifest(build))
    assert manifest["update"]["compatible"] == "edge-osbuild-tiny-rpi4"
    assert manifest["update"]["version"] == "1.2.3"
    assert manifest["bundle"]["format"] == "verity"
    assert [name for name in manifest.sections() if name.startswith("image.")] == [
        "image.boot", "image.root", "image.verity",
    ]  # fmt: skip
    assert manifest["image.boot"]["hooks"] == "install"
    assert manifest["image.root"]["adaptive"] == manifest["image.verity"]["adaptive"] == "block-hash-index"
    assert manifest["meta.edge"]["kubernetes"] == "upstream v1.36.3"


def test_only_a_bundle_that_is_told_to_permits_a_downgrade_and_from_one_version(tmp_path: Path) -> None:
    build = source.read_build(make_build(tmp_path / "b"))
    assert "downgrade" not in parsed(content.render_manifest(with_permissions(build, None)))["meta.edge"]
    assert parsed(content.render_manifest(with_permissions(build, "1.2.3")))["meta.edge"]["downgrade"] == "1.2.3"
    with pytest.raises(UsageError, match="`yesterday` is not a version"):
        with_permissions(build, "yesterday")


def test_a_build_without_a_board_is_for_its_architecture(tmp_path: Path) -> None:
    assert source.read_build(make_build(tmp_path / "b")).compatible == "edge-osbuild-tiny-x86_64"


def test_the_same_build_gives_the_same_content_wherever_it_is_and_whenever_it_was_made(tmp_path: Path) -> None:
    trees = []
    for number in (1, 2):
        build = make_build(tmp_path / f"b{number}", metadata={"timings": [{"seconds": number}]})
        (tmp_path / f"c{number}").mkdir()
        content.write_content(source.read_build(build), tmp_path / f"c{number}")
        trees.append({path.name: path.read_bytes() for path in (tmp_path / f"c{number}").iterdir()})
    assert trees[0] == trees[1]
    assert {"hook", "manifest.raucm", "root.img", "verity.img", "boot.blocks"} < trees[0].keys()
    assert len(trees[0]["boot.blocks"]) == (1 + 20 + 1 + 1) * 4096, "what both slots have is there once"


@pytest.mark.parametrize("kind", ["efi", "img"])
def test_boot_files_of_both_flows_are_known_by_their_names(tmp_path: Path, kind: str) -> None:
    build_source = source.read_build(make_build(tmp_path / "b", kind=kind))
    assert [path.name for path in build_source.boot.values()] == [f"edge-a.{kind}", f"edge-b.{kind}"]
    assert build_source.boot_folder == {"efi": "EFI/Linux", "img": ""}[kind]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda made: (made / "manifest.json").unlink(), "this folder does not contain a finished build"),
        (lambda made: (made / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda made: (made / "manifest.json").write_text('{"files": {}}'), "manifest.json is damaged"),
        (lambda made: (made / "root.erofs").unlink(), "cannot be read: No such file"),
        (lambda made: (made / "edge-b.efi").write_bytes(b"x"), "this file was changed after the build"),
    ],
)
def test_an_incomplete_build_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    made = make_build(tmp_path / "b")
    damage(made)
    with pytest.raises(Error, match=message) as caught:
        source.check_build(source.read_build(made))
    assert caught.value.hint


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "today", "1.0.0 "])
def test_a_version_that_cannot_be_compared_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(Error, match="can't be compared"):
        source.check_build(source.read_build(make_build(tmp_path / "b", version=version)))


def test_several_builds_go_into_a_folder_and_never_into_one_file(tmp_path: Path) -> None:
    boards = [source.read_build(make_build(tmp_path / name, metadata={"board": name})) for name in ("x86_64", "rpi4")]
    assert [path.name for path in bundle_paths(boards, tmp_path)] == [
        "tiny-1.0.0-x86_64.raucb",
        "tiny-1.0.0-rpi4.raucb",
    ]
    assert bundle_paths(boards, None) == [tmp_path / "x86_64/bundle.raucb", tmp_path / "rpi4/bundle.raucb"]
    for sources, output, message in (
        (boards, tmp_path / "f.raucb", "2 builds cannot be in one bundle"),
        ([boards[0], boards[0]], tmp_path, "two builds would be written to"),
        (boards[:1], tmp_path / "f.img", "the name of a bundle must end in .raucb"),
    ):
        with pytest.raises(UsageError, match=message):
            bundle_paths(sources, output)


def test_the_device_trusts_by_list_and_purpose_and_takes_no_plain_bundle() -> None:
    conf = parsed(render_system_conf("edge-osbuild-tiny-rpi4", boot="/efi"))
    assert conf["system"]["compatible"] == "edge-osbuild-tiny-rpi4"
    assert conf["system"]["bundle-formats"] == "-plain"
    assert conf["system"]["activate-installed"] == "false"
    assert conf["keyring"]["check-crl"] == "true"
    assert conf["keyring"]["check-purpose"] == "codesign"
    assert "min-bundle-version" not in conf["system"]
    assert (
        parsed(render_system_conf("x", boot="/efi", minimum_version="1.2.0"))["system"]["min-bundle-version"] == "1.2.0"
    )
    for number, slot in enumerate("ab"):
        assert conf[f"slot.root.{number}"]["bootname"] == slot
        assert conf[f"slot.root.{number}"]["device"] == f"/dev/edge/root-{slot}"
        assert conf[f"slot.verity.{number}"]["device"] == f"/dev/edge/root-{slot}-verity"
        assert conf[f"slot.verity.{number}"]["parent"] == conf[f"slot.boot.{number}"]["parent"] == f"root.{number}"


def test_a_comparison_names_packages_components_and_counts_blocks(tmp_path: Path) -> None:
    old_facts = {
        "packages": [
            {"name": "bash", "version": "5.2", "sha256": "1"}, {"name": "gone", "version": "1", "sha256": "2"},
            {"name": "anew", "version": "3", "sha256": "3"},
        ],
        "components": [{"name": "kubernetes", "version": "v1.35.4", "distribution": "upstream"}],
    }  # fmt: skip
    new_facts = {
        "packages": [
            {"name": "bash", "version": "5.3", "sha256": "4"}, {"name": "more", "version": "1", "sha256": "5"},
            {"name": "anew", "version": "3", "sha256": "6"},
        ],
        "components": [{"name": "kubernetes", "version": "v1.36.3", "distribution": "upstream"}],
        "roothash": "1" * 64,
    }  # fmt: skip
    root = random_blocks("root", 50)
    changed = random_blocks("inserted", 3) + root[:4096] + random_blocks("changed", 1) + root[2 * 4096 :]
    cache = Cache(tmp_path / "cache")
    old = update_changes.read_side(make_build(tmp_path / "old", metadata=old_facts), cache)
    new = update_changes.read_side(
        make_build(tmp_path / "new", version="1.1.0", root=changed, metadata=new_facts), cache
    )
    comparison = update_changes.compare_builds(old, new)
    assert comparison.root == update_changes.Delta(4 * 4096, 53 * 4096), "blocks that only moved are not counted"
    assert comparison.hash_tree.changed == comparison.boot.changed == 0
    assert [(change.name, change.old, change.new) for change in comparison.packages] == [
        ("anew", "3", "3"), ("bash", "5.2", "5.3"), ("gone", "1", None), ("more", None, "1"),
    ]  # fmt: skip
    shown = "\n".join(comparison_lines(comparison))
    assert "upstream v1.35.4 → upstream v1.36.3" in shown
    assert "1 added, 1 removed, 2 changed" in shown
    assert "7.5 %" in shown


def test_what_a_device_would_refuse_is_remarked(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    old = update_changes.read_side(make_build(tmp_path / "old"), cache)
    new = update_changes.read_side(make_build(tmp_path / "new", metadata={"board": "rpi4", "key": "other"}), cache)
    remarks = update_changes.compare_builds(old, new).remarks
    assert any("refuses edge-osbuild-tiny-rpi4" in remark for remark in remarks)
    assert any("both have the version 1.0.0" in remark for remark in remarks)


@pytest.mark.parametrize("data", [b"", b"hsq", b"\0" * 100000])
def test_a_file_that_is_not_a_bundle_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f.raucb"
    path.write_bytes(data)
    with pytest.raises(Error, match="this is not a bundle"):
        info.read_bundle(path, Cache(tmp_path / "cache"))
    with pytest.raises(Error, match="neither a build folder nor a bundle"):
        update_changes.read_side(path, Cache(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("bundle", "{0}/no"), 1, "this folder does not exist"),
        (("bundle", "{0}"), 1, "does not contain a finished build"),
        (("bundle", "{0}/b/manifest.json"), 1, "this is not a build folder"),
        (("bundle", "{0}/b", "{0}/b2", "-o", "{0}/f.raucb"), 2, "cannot be in one bundle"),
        (("bundle", "{0}/b", "--keys", "{0}/nokeys"), 1, "the list of keys does not exist"),
        (("inspect", "{0}/b", "--against", "{0}/no"), 1, "this file does not exist"),
        (("bundle",), 2, "Missing argument"),
    ],
)
def test_bad_input_is_reported_before_anything_is_created(
    tmp_path: Path, arguments: tuple[str, ...], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_build(tmp_path / "b")
    make_build(tmp_path / "b2")
    with pytest.raises(SystemExit) as stopped:
        cli.main([word.format(tmp_path) for word in arguments])
    assert stopped.value.code == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.raucb"))


def test_a_comparison_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_build(tmp_path / "old")
    make_build(tmp_path / "new", version="1.1.0", kernel=random_blocks("other kernel", 10))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect", str(tmp_path / "new"), "--against", str(tmp_path / "old"), "--json"])
    assert stopped.value.code == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["new"]["version"] == "1.1.0"
    assert plain["boot"] == {"changed": 10 * 4096, "size": 12 * 4096, "percent": 83.33}
    assert plain["download"] == 10 * 4096 + plain["index"]


@pytest.mark.parametrize("marked", [False, True])
def test_only_an_image_with_development_keys_has_a_notice_at_login(tmp_path: Path, marked: bool) -> None:
    keys = authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess(), development=marked)
    files = update_trust.trust_files("edge-osbuild-tiny-rpi4", keys, boot="/efi")
    assert files == update_trust.trust_files("edge-osbuild-tiny-rpi4", keys, boot="/efi")
    assert parsed(files[CONFIG].decode())["keyring"]["path"] == f"/{KEYRING_FILE}"
    assert files[KEYRING_FILE] == keys.keyring()
    assert b"PRIVATE" not in b"".join(files.values())
    notices = [path for path, data in files.items() if b"DEVELOPMENT keys" in data]
    assert bool(notices) == marked
    assert json.loads(files[update_trust.TRUST])["development"] == marked

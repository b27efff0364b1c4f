"""The build manifest: what is written again is what was read, and what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from osbuild.inputs.build_manifest import MANIFEST, FileRecord, Manifest

# As version 0.1.0 wrote it, with keys that no version knows yet.
WRITTEN: dict[str, Any] = {
    "name": "edge-server", "version": "1.0.0", "architecture": "x86_64", "board": "x86_64",
    "builder": {"number": "0.1.0", "commit": None, "modified": False},
    "key": "a7d1", "lock": "1053", "roothash": "d8" * 32, "slot_free_percent": 0,
    "trust": {
        "owner": "edge-osbuild", "development": False, "revoked": [],
        "roots": [{"name": "root-1", "sha256": "21" * 32, "until": "2046-11-24T05:22:32+00:00"}],
    },
    "components": [
        {"name": "linux", "version": "6.12.118+deb13-cloud-amd64", "size": 0},
        {
            "name": "kubernetes", "version": "v1.36.3", "size": 194502905, "distribution": "upstream",
            "kine": "v0.16.4", "images": {"demo": ["localhost/edge-demo:1"]},
            "because": "offline", "requested": "k3s v1.35.0",
        },
    ],
    "packages": [{"name": "bash", "version": "5", "architecture": "amd64", "sha256": "e", "size": 7, "installed": 0}],
    "kernel": {"package": "linux-image.deb", "sha256": "07", "release": "6.12.118+deb13-cloud-amd64"},
    "files": {"disk.img": {"sha256": "08", "size": 4565499904, "used": 321159168, "of a later version": 1}},
    "largest": [{"name": "libssl3t64", "size": 7739455}],
    "timings": [{"depth": 0, "step": "compressing and hashing", "seconds": 7.75}],
    "of a later version": {"x": [1]},
}  # fmt: skip


def test_a_manifest_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(WRITTEN))
    manifest = Manifest.read(tmp_path)
    assert manifest.to_json() == WRITTEN
    assert json.loads(manifest.to_text()) == WRITTEN
    assert manifest.files["disk.img"].used == 321159168
    assert (manifest.components[1].requested, manifest.components[1].reason) == ("k3s v1.35.0", "offline")
    assert manifest.trusted_roots == ("21" * 32,)


def test_a_manifest_of_an_earlier_version_has_no_board() -> None:
    manifest = Manifest.parse('{"name": "tiny", "architecture": "arm64", "files": {"disk.img": {}}}')
    assert manifest.board_name == "arm64"
    assert manifest.files == {"disk.img": FileRecord()}
    assert manifest.trusted_roots == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "`name` is not text"),
        ({"slot_free_percent": True}, "`slot_free_percent` is not a whole number"),
        ({"files": {"disk.img": {"size": "1"}}}, r"`files\.disk\.img\.size` is not a whole number"),
        ({"packages": {}}, "`packages` is not a list"),
        ({"packages": [{}]}, r"`packages\[0\]\.name` is missing"),
        ({"trust": []}, "`trust` is not a mapping"),
        ({"slot_free_percent": 10**400}, "`slot_free_percent` is out of range"),
        ({"timings": [{"depth": 0, "step": "x", "seconds": float("nan")}]}, r"seconds` is out of range"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest.parse(json.dumps({**WRITTEN, **change}))


def test_an_image_without_a_valid_manifest_has_none(tmp_path: Path) -> None:
    assert Manifest.find(tmp_path / "disk.img") is None
    (tmp_path / MANIFEST).write_text('{"name": ')
    assert Manifest.find(tmp_path / "disk.img") is None
    (tmp_path / MANIFEST).write_text('{"name": "tiny"}')
    manifest = Manifest.find(tmp_path / "disk.img")
    assert manifest is not None and manifest.name == "tiny"

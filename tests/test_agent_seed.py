"""The device's side of a seed: accepted whole or not at all, kept, and shown to cloud-init."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osbuild.agent import seed
from osbuild.agent.seed import Refused, Seed, choose, defaults, keep, kept, label, local, media, read, show
from osbuild.agent.system import System

USER, META, NETWORK = b"#cloud-config\nusers: []\n", b"instance-id: node-1-0\n", b"version: 2\nethernets: {}\n"
FILES = {"user-data": USER, "meta-data": META, "network-config": NETWORK}


def put(folder: Path, files: dict[str, bytes], *, sums: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    if sums:
        lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
        (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def test_a_complete_seed_is_accepted_with_and_without_checksums(tmp_path: Path) -> None:
    assert read(put(tmp_path / "a", FILES)) == Seed(FILES)
    assert read(put(tmp_path / "b", FILES, sums=True)) == Seed(FILES)
    assert read(put(tmp_path / "c", {"user-data": USER, "meta-data": META})).files.keys() == {"user-data", "meta-data"}


@pytest.mark.parametrize("name", ["user-data", "meta-data", "network-config"])
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "zeroes"])
def test_a_seed_with_checksums_is_refused_if_any_file_is_damaged(tmp_path: Path, name: str, damage: str) -> None:
    folder = put(tmp_path, FILES, sums=True)
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "torn": FILES[name][:-4], "zeroes": bytes(len(FILES[name]))}[damage])
    with pytest.raises(Refused, match=name):
        read(folder)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"meta-data": META}, "user-data is missing"),
        ({"user-data": USER}, "meta-data is missing"),
        ({"user-data": b" \n", "meta-data": META}, "user-data is empty"),
        ({"user-data": USER, "meta-data": b"local-hostname: a\n"}, "no instance-id"),
        ({"user-data": USER + b"\0" * 512, "meta-data": META}, "user-data is not text"),
        ({"user-data": b"#" * (seed.LIMIT + 1), "meta-data": META}, "user-data is larger"),
    ],
)
def test_a_seed_without_checksums_must_at_least_be_one(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    with pytest.raises(Refused, match=why):
        read(put(tmp_path, files))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000), name=st.sampled_from([*FILES, "SHA256SUMS"]))
def test_what_a_power_cut_leaves_of_a_file_is_never_taken_for_the_seed(tmp_path: Path, cut: int, name: str) -> None:
    folder = put(tmp_path, FILES, sums=True)
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    try:
        assert read(folder) == Seed(FILES)
    except Refused:
        return
    assert name == "SHA256SUMS"  # the last that is written: without it the others are whole


def test_an_accepted_seed_is_kept_and_the_one_before_it_is_gone(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert kept(system) is None
    first, second = Seed(FILES), Seed({**FILES, "user-data": USER + b"timezone: UTC\n"})
    keep(system, first)
    keep(system, first)
    assert kept(system) == first
    keep(system, second)
    assert kept(system) == second
    folder = tmp_path / "var/lib/edge-osbuild/seed"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["current", second.digest])
    assert {path.stat().st_mode & 0o777 for path in (folder / second.digest).iterdir()} == {0o600}


def test_a_store_that_was_interrupted_anywhere_keeps_the_old_seed_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Seed(FILES), Seed({**FILES, "user-data": USER + b"timezone: UTC\n"})
    outcomes = set()
    for number in range(100):
        system = System(tmp_path / str(number))
        keep(system, old)
        calls = 0

        def flush(descriptor: int, fail_at: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls > fail_at:
                raise InterruptedError
            os.fdatasync(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", flush)
            try:
                keep(system, new)
                done = True
            except InterruptedError:
                done = False
        found = kept(system)
        assert found in (old, new)
        outcomes.add(found == new)
        keep(system, new)  # and the next boot mends it
        assert kept(system) == new
        if done:
            break
    assert done
    assert outcomes == {False, True}


def test_a_seed_kept_on_a_damaged_disk_is_not_used(tmp_path: Path) -> None:
    system = System(tmp_path)
    keep(system, Seed(FILES))
    (tmp_path / "var/lib/edge-osbuild/seed/current/user-data").write_bytes(b"")
    assert kept(system) is None
    keep(system, Seed(FILES))
    assert kept(system) == Seed(FILES)


def test_the_seed_on_the_esp_goes_before_the_kept_one_unless_it_is_torn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = System(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    chosen, source = choose(system, [])
    assert source == "defaults"
    assert json.loads(chosen.files["meta-data"])["local-hostname"] == "edge-01234567"
    old = Seed({**FILES, "user-data": USER + b"hostname: old\n"})
    keep(system, old)
    assert choose(system, []) == (old, "kept from before")
    put(tmp_path / "efi/seed", FILES, sums=True)
    assert choose(system, []) == (Seed(FILES), "EFI system partition")
    (tmp_path / "efi/seed/user-data").write_bytes(USER[:-3])
    assert choose(system, []) == (old, "kept from before")
    assert "user-data does not have the checksum" in capsys.readouterr().err


def test_cloud_init_sees_exactly_the_seed_and_runs_once_before_the_network(tmp_path: Path) -> None:
    system = System(tmp_path)
    show(system, Seed({**FILES, "vendor-data": b"x"}))
    show(system, Seed(FILES))
    folder = tmp_path / "var/lib/cloud/seed/nocloud"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert (folder / "user-data").read_bytes() == USER
    assert yaml.safe_load((folder / "meta-data").read_text()) == {"instance-id": "node-1-0", "dsmode": "local"}


@pytest.mark.parametrize(
    "metadata",
    [
        "instance-id: a\nlocal-hostname: b",
        '{"instance-id": "a", "local-hostname": "b", "dsmode": "net"}',
        "dsmode: net\ninstance-id: a\nlocal-hostname: b\n",
    ],
)
def test_meta_data_of_others_gets_the_mode_too(metadata: str) -> None:
    expected = {"instance-id": "a", "local-hostname": "b", "dsmode": "local"}
    assert yaml.safe_load(local(metadata.encode())) == expected


def test_the_defaults_are_a_seed_that_would_be_accepted(tmp_path: Path) -> None:
    made = defaults(System(tmp_path))
    assert read(put(tmp_path / "seed", made.files)) == made


def test_media_are_found_by_label_in_either_case_and_nothing_else_is(tmp_path: Path) -> None:
    iso = bytes(0x8000) + b"\1CD001\1\0" + bytes(32) + b"CIDATA".ljust(32)
    fat16 = bytes(43) + b"cidata     FAT16   " + bytes(450)
    fat32 = bytes(71) + b"CIDATA     FAT32   " + bytes(422)
    other = bytes(71) + b"ESP        FAT32   " + bytes(422)
    devices = {"sr0": iso, "sdb1": fat16, "sdc1": fat32, "sda1": other, "sda": b"", "sda2": bytes(99), "loop0": iso}
    (tmp_path / "dev").mkdir()
    for name, data in devices.items():
        (tmp_path / "sys/class/block" / name).mkdir(parents=True)
        (tmp_path / "dev" / name).write_bytes(data)
    (tmp_path / "sys/class/block/sdd").mkdir()  # an empty card reader has no medium to open
    assert [path.name for path in media(System(tmp_path))] == ["sdb1", "sdc1", "sr0"]
    assert label(tmp_path / "dev/sda1") == "ESP"

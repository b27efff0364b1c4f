"""The device's side of a seed: accepted whole or not at all, kept, and shown to cloud-init."""

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from email.encoders import encode_base64
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osbuild.agent.errors import Problem
from osbuild.agent.seed import boot_steps as booting
from osbuild.agent.seed import choose as choosing
from osbuild.agent.seed import user_data
from osbuild.agent.seed.accepted import accept_seed
from osbuild.agent.seed.boot_steps import find_seed
from osbuild.agent.seed.choose import Media, choose_seed, default_seed, read_media_rule
from osbuild.agent.seed.cloud_init_folder import write_for_cloud_init
from osbuild.agent.seed.media import WAIT, find_media, read_label
from osbuild.agent.seed.replacement import replace_seed
from osbuild.agent.seed.report import SeedReport, load_report
from osbuild.agent.seed.store import store_seed, stored_seed, supersede
from osbuild.agent.system import System
from osbuild.config.profile import Profile
from osbuild.host.cache import Cache
from osbuild.seed.esp_seed import find_mtools
from osbuild.seed.iso import make_iso
from osbuild.seed.render import render_seed
from osbuild.shared.seed import checksums, effective_keys, limits
from osbuild.shared.seed.files import LIMIT, SeedFiles, read_seed
from osbuild.shared.seed.refused import SeedRefused
from tests.support.examples import examples

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
    assert read_seed(put(tmp_path / "a", FILES)) == SeedFiles(FILES)
    assert read_seed(put(tmp_path / "b", FILES, sums=True)) == SeedFiles(FILES)
    assert read_seed(put(tmp_path / "c", {"user-data": USER, "meta-data": META})).files.keys() == {
        "user-data",
        "meta-data",
    }


@pytest.mark.parametrize("name", ["user-data", "meta-data", "network-config"])
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "zeroes"])
def test_a_seed_with_checksums_is_refused_if_any_file_is_damaged(tmp_path: Path, name: str, damage: str) -> None:
    folder = put(tmp_path, FILES, sums=True)
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "torn": FILES[name][:-4], "zeroes": bytes(len(FILES[name]))}[damage])
    with pytest.raises(SeedRefused, match=name):
        read_seed(folder)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"meta-data": META}, "user-data is missing"),
        ({"user-data": USER}, "meta-data is missing"),
        ({"user-data": b" \n", "meta-data": b""}, "user-data and meta-data are both empty"),
        ({"user-data": b"#" * (LIMIT + 1), "meta-data": META}, "user-data is larger"),
    ],
)
def test_an_incomplete_seed_is_refused(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    with pytest.raises(SeedRefused, match=why):
        read_seed(put(tmp_path, files))


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000), name=st.sampled_from([*FILES, "SHA256SUMS"]))
def test_a_torn_stored_seed_is_not_used(tmp_path: Path, cut: int, name: str) -> None:
    folder = put(tmp_path, FILES, sums=True)
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    try:
        assert read_seed(folder) == SeedFiles(FILES)
    except SeedRefused:
        return
    assert name == "SHA256SUMS"  # the last that is written: without it the others are whole


def test_storing_a_seed_replaces_the_previous_one(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert stored_seed(system) is None
    first, second = SeedFiles(FILES), SeedFiles({**FILES, "user-data": USER + b"timezone: UTC\n"})
    store_seed(system, first)
    store_seed(system, first)
    assert stored_seed(system) == first
    store_seed(system, second)
    assert stored_seed(system) == second
    folder = tmp_path / "var/lib/edge-osbuild/seed"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["current", second.digest])
    assert {path.stat().st_mode & 0o777 for path in (folder / second.digest).iterdir()} == {0o600}


def test_an_interrupted_store_keeps_the_old_or_the_new_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = SeedFiles(FILES), SeedFiles({**FILES, "user-data": USER + b"timezone: UTC\n"})
    outcomes = set()
    for number in range(100):
        system = System(tmp_path / str(number))
        store_seed(system, old)
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
                store_seed(system, new)
                completed = True
            except InterruptedError:
                completed = False
        stored = stored_seed(system)
        assert stored in (old, new)
        outcomes.add(stored == new)
        store_seed(system, new)  # and the next boot mends it
        assert stored_seed(system) == new
        if completed:
            break
    assert completed
    assert outcomes == {False, True}


def test_a_damaged_stored_seed_is_not_used(tmp_path: Path) -> None:
    system = System(tmp_path)
    store_seed(system, SeedFiles(FILES))
    (tmp_path / "var/lib/edge-osbuild/seed/current/user-data").write_bytes(b"")
    assert stored_seed(system) is None
    store_seed(system, SeedFiles(FILES))
    assert stored_seed(system) == SeedFiles(FILES)


def test_a_valid_seed_on_the_esp_is_preferred_to_the_stored_one(tmp_path: Path) -> None:
    system = System(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    first = choose_seed(system, [], Media.FIRST_BOOT).accepted
    assert first.source == "defaults"
    assert json.loads(first.files["meta-data"])["local-hostname"] == "edge-01234567"
    old = SeedFiles({**FILES, "user-data": USER + b"hostname: old\n"})
    store_seed(system, old)
    assert chosen(system) == (old, "stored")
    put(tmp_path / "efi/seed", FILES, sums=True)
    assert chosen(system) == (SeedFiles(FILES), "EFI system partition")
    (tmp_path / "efi/seed/user-data").write_bytes(USER[:-3])
    choice = choose_seed(system, [], Media.FIRST_BOOT)
    assert (choice.accepted.seed, choice.accepted.source) == (old, "stored")
    assert "user-data does not have the checksum" in choice.errors[0]


def chosen(system: System, media: Media = Media.FIRST_BOOT) -> tuple[SeedFiles, str]:
    accepted = choose_seed(system, [], media).accepted
    return accepted.seed, accepted.source


def test_a_replaced_seed_on_the_esp_is_ignored_but_a_new_one_is_used(tmp_path: Path) -> None:
    system = System(tmp_path)
    put(tmp_path / "efi/seed", FILES)
    new = put(tmp_path / "new", {**FILES, "user-data": USER + b"hostname: new\n"})
    assert replace_seed(system, new).warnings == ()
    assert chosen(system) == (read_seed(new), "stored")
    put(tmp_path / "efi/seed", {**FILES, "user-data": USER + b"hostname: newer\n"})
    assert chosen(system)[1] == "EFI system partition"
    supersede(system, chosen(system)[0].digest)
    assert chosen(system) == (read_seed(new), "stored")


def test_apply_does_not_store_a_refused_seed(tmp_path: Path) -> None:
    system = System(tmp_path)
    store_seed(system, SeedFiles(FILES))
    bad = put(tmp_path / "bad", {**FILES, "user-data": b"#cloud-config\nusers:\n- name: a\n\tshell: x\n"})
    with pytest.raises(Problem, match=r"user-data, line 4, column 1") as caught:
        replace_seed(system, bad)
    assert "nothing was changed" in (caught.value.hint or "")
    assert stored_seed(system) == SeedFiles(FILES)
    with pytest.raises(Problem, match="does not exist"):
        replace_seed(system, tmp_path / "missing.iso")


@pytest.fixture
def medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A medium with a seed; it is a folder, since a test can't attach a disk."""
    folder = put(tmp_path / "medium", {**FILES, "user-data": USER + b"hostname: medium\n"}, sums=True)

    @contextmanager
    def mounted(system: System, device: Path) -> Iterator[Path]:
        yield device

    monkeypatch.setattr(choosing, "mounted", mounted)
    return folder


@pytest.mark.parametrize(
    ("media", "own", "source"),
    [
        (Media.FIRST_BOOT, None, "medium"),
        (Media.FIRST_BOOT, "stored", "stored"),
        (Media.FIRST_BOOT, "esp", "EFI system partition"),
        (Media.ALWAYS, "stored", "medium"),
        (Media.ALWAYS, "esp", "medium"),
        (Media.SIGNED, None, "defaults"),
        (Media.SIGNED, "stored", "stored"),
        (Media.SIGNED, "esp", "EFI system partition"),
    ],
)
def test_the_image_decides_when_a_medium_configures_a_node(
    tmp_path: Path, medium: Path, media: Media, own: str | None, source: str
) -> None:
    system = System(tmp_path)
    if own == "stored":
        store_seed(system, SeedFiles(FILES))
    if own == "esp":
        put(tmp_path / "efi/seed", FILES)
    choice = choose_seed(system, [medium], media)
    assert choice.accepted.source.startswith(source)
    if media is Media.FIRST_BOOT and own:
        assert "edge-agent seed apply" in choice.notes[0]
    if media is Media.SIGNED:
        assert "the seed is not signed" in choice.errors[0]


@pytest.mark.parametrize(
    ("rule", "known", "wait"),
    [(None, False, WAIT), (None, True, 0.0), ("signed", True, WAIT), ("always", True, WAIT), ("always", False, WAIT)],
)
def test_the_boot_waits_for_a_medium_only_if_it_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str | None, known: bool, wait: float
) -> None:
    """A USB stick appears seconds after the node has read its own seed."""
    system = System(tmp_path)
    waited: list[float] = []

    def wait_for_media(system: System, seconds: float) -> list[Path]:
        waited.append(seconds)
        return []

    put(tmp_path / "usr/lib/edge-osbuild", {"image.json": json.dumps({"seed": {"media": rule}}).encode()})
    if known:
        store_seed(system, SeedFiles(FILES))
    monkeypatch.setattr(booting, "wait_for_media", wait_for_media)
    assert booting.find_seed(system) == 0
    assert waited == [wait]


def test_without_a_rule_media_are_used_at_the_first_boot_only(tmp_path: Path) -> None:
    assert read_media_rule(System(tmp_path)) is Media.FIRST_BOOT
    path = tmp_path / "usr/lib/edge-osbuild/image.json"
    path.parent.mkdir(parents=True)
    for text, expected in (('{"seed": {"media": "always"}}', Media.ALWAYS), ('{"seed": 1}', Media.FIRST_BOOT)):
        path.write_text(text)
        assert read_media_rule(System(tmp_path)) is expected


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RecursionError("deep"), ValueError("odd")])
def test_an_unreadable_medium_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(folder: Path) -> SeedFiles:
        raise error

    system = System(tmp_path)
    store_seed(system, SeedFiles(FILES))
    put(tmp_path / "efi/seed", FILES)
    monkeypatch.setattr(choosing, "read_seed", fail)
    choice = choose_seed(system, [], Media.FIRST_BOOT)
    assert choice.accepted.seed == SeedFiles(FILES)
    assert choice.accepted.source == "stored"
    assert str(error.args[-1]) in choice.errors[0]


def test_cloud_init_sees_exactly_the_seed_and_runs_once_before_the_network(tmp_path: Path) -> None:
    system = System(tmp_path)
    write_for_cloud_init(system, accept_seed(SeedFiles({**FILES, "vendor-data": b"#!/bin/sh\n"}), "a"))
    write_for_cloud_init(system, accept_seed(SeedFiles(FILES), "b"))
    folder = tmp_path / "var/lib/cloud/seed/nocloud"
    assert {path.name for path in folder.iterdir()} == {"user-data", "meta-data"}
    assert read_seed(tmp_path / "run/edge-osbuild/seed") == SeedFiles(FILES)
    assert gzip.decompress((folder / "user-data").read_bytes()) == USER
    assert yaml.safe_load((folder / "meta-data").read_text()) == {"instance-id": "node-1-0", "dsmode": "local"}


@pytest.mark.parametrize(
    "metadata",
    [
        "instance-id: a\nlocal-hostname: b",
        '{"instance-id": "a", "local-hostname": "b", "dsmode": "net"}',
        '{\n  "instance-id": "a",\n  "local-hostname": "b",\n}',
        "{instance-id: a, local-hostname: b}",
        "---\ninstance-id: a\nlocal-hostname: b\n...\n",
        "\ufeffdsmode: net\ninstance-id: a\nlocal-hostname: b\n",
        "# a comment\ninstance-id: >-\n  a\nlocal-hostname: b # dsmode: net\n",
    ],
)
def test_meta_data_in_every_yaml_style_get_the_mode_local(metadata: str) -> None:
    expected = {"instance-id": "a", "local-hostname": "b", "dsmode": "local"}
    files = accept_seed(SeedFiles({**FILES, "meta-data": metadata.encode()}), "a").files
    assert yaml.safe_load(files["meta-data"]) == expected


@pytest.mark.parametrize(
    ("metadata", "instance"), [("", "nocloud"), ("local-hostname: a\n", "nocloud"), ("instance-id: 17\n", "17")]
)
def test_meta_data_without_an_instance_id_get_the_default_of_cloud_init(metadata: str, instance: str) -> None:
    files = accept_seed(SeedFiles({**FILES, "meta-data": metadata.encode()}), "a").files
    assert yaml.safe_load(files["meta-data"])["instance-id"] == instance


@pytest.mark.parametrize(
    ("text", "name"), [("101", "101"), ("0x10", "16"), ("a", "a"), ("[a]", None), ('"\\ud83d"', None)]
)
def test_a_host_name_in_meta_data_becomes_text(text: str, name: str | None) -> None:
    accepted = accept_seed(SeedFiles({**FILES, "meta-data": f"local-hostname: {text}\n".encode()}), "a")
    assert yaml.safe_load(accepted.files["meta-data"]).get("local-hostname") == name
    assert bool(accepted.warnings) is (name is None)


def zipped(data: bytes) -> bytes:
    """Compress quickly, because every process that runs tests does so when it imports this module."""
    return gzip.compress(data, compresslevel=1, mtime=0)


DEEP = "a: " + "[" * 5000 + "]" * 5000
LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)

MERGED = "a: &a {a: 1}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{','.join([f'*{chr(97 + n)}'] * 9)}]}}\n" for n in range(12)
)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("user-data", b"#cloud-config\nusers:\n- name: a\n\tshell: x\n", r"user-data, line 4, column 1: .*'\\t'"),
        ("user-data", b"#cloud-config\nusers: [a\n", r"user-data, line 3, column 1"),
        ("user-data", b"#cloud-config\n- a\n", "line 1, column 1: expected `key: value` lines, not a list"),
        ("user-data", b"#cloud-config\na: 1\n---\nb: 2\n", r"user-data, line 3, column 1"),
        ("user-data", b"#cloud-config\na: *b\n", r"user-data, line 2, column 4: an alias without an anchor"),
        ("user-data", b"#cloud-config\na: !b c\n", r"user-data, line 2, column 4: an unknown tag"),
        (
            "user-data",
            b"#cloud-config\nd: 2026-13-45\n",
            "user-data, line 2, column 4: not a valid timestamp: month must be in 1..12",
        ),
        ("user-data", b"#cloud-config\nd: !!timestamp hush\n", "line 2, column 4: not a valid timestamp$"),
        ("user-data", b"#cloud-config\nd: !!int hush\n", "line 2, column 4: not a valid int$"),
        ("user-data", b"#cloud-config\nd: !!bool hush\n", "line 2, column 4: not a valid bool$"),
        ("user-data", b"#cloud-config\nd: !!int ''\n", "line 2, column 4: not a valid int$"),
        ("user-data", b'#cloud-config\nd: "\\U00110000"\n', "line 2, column 7: an escape that is not a character"),
        ("user-data", b"#cloud-config\n" + DEEP.encode(), "user-data, line 2, column 43: more than 40 levels"),
        ("user-data", b"#cloud-config\n" + b"a: " + b"[" * 100 + b"]" * 100, "more than 40 levels"),
        ("user-data", b"#cloud-config\n" + LAUGHS.encode(), "line 6, column 4: more than 20000 values"),
        ("user-data", b"#cloud-config\n" + MERGED.encode(), "more than 20000 values"),
        ("user-data", b"#cloud-config\na: [" + b"b," * 10**6 + b"]\n", "more than 20000 values"),
        (
            "user-data",
            b"#cloud-config\na: 1" + b":59" * 10**5 + b"\n",
            "line 2, column 4: a number of 300001 characters",
        ),
        ("user-data", b"#cloud-config\na: 0x" + b"f" * 200 + b"\n", "line 2, column 4: a number of 202 characters"),
        ("user-data", b"#cloud-config\na: &a [*a]\n", "line 2, column 8: an alias that contains itself"),
        ("user-data", "#cloud-config\na: b\n".encode("utf-16"), "user-data is UTF-16; save it as UTF-8"),
        ("user-data", b"#cloud-config\na: \xff\n", "user-data, line 2, column 4: not UTF-8"),
        ("user-data", b"#cloud-config\na: b\0\n", "user-data, line 2, column 5: not text"),
        ("user-data", b"#cloud-config\na: \x01\n", "line 2, column 4: this character is not allowed"),
        ("user-data", b"users: []\n", "begins with 'users:…'; it must begin with `#cloud-config`"),
        ("user-data", b"#include\nhttp://192.0.2.1/\n", "`#include` is not followed"),
        ("user-data", gzip.compress(USER * 9, mtime=0)[:-12], "gzip data is truncated"),
        ("user-data", zipped(b"#" * (limits.UNPACKED + 1)), "gzip data is too large"),
        ("user-data", zipped(b"#cloud-config\n" + b"#" * limits.TEXT), "6 MiB of YAML in total"),
        ("meta-data", b"- a\n", "meta-data, line 1, column 1: expected"),
        ("meta-data", b"instance-id: {a: b}\n", "instance-id is not a text"),
        ("meta-data", b"instance-id: !!binary aGk=\n", "instance-id is not a text"),
        ("meta-data", b'instance-id: "\\ud83d"\n', "instance-id contains a character that is not allowed in a name"),
        ("meta-data", b"instance-id: " + b"a" * 201, "instance-id has more than 200 bytes"),
        ("meta-data", b"instance-id: ..\n", "instance-id is '..', which cannot be the name of a folder"),
        ("meta-data", b"instance-id: .\n", "instance-id is '.', which cannot be the name of a folder"),
    ],
)
def test_invalid_files_are_refused_with_their_position(name: str, data: bytes, why: str) -> None:
    with pytest.raises(SeedRefused, match=why):
        accept_seed(SeedFiles({**FILES, name: data}), "a")


def message(*parts: tuple[str, bytes]) -> bytes:
    message = MIMEMultipart()
    for kind, data in parts:
        encoded = MIMEApplication(data, kind.split("/")[1], encode_base64)
        encoded.replace_header("Content-Type", kind)
        message.attach(encoded)
    return message.as_bytes()


SHORT = b"#cloud-config\n#\n"
# On its own within the limit of a seed, but not together with another file or part. It is counted before it is parsed,
# so that the tests do not wait for PyYAML, which takes a second for 3 MiB.
LARGE = zipped(b"#cloud-config\n" + b"#" * (limits.TEXT - len(b"#cloud-config\n")))  # some kB
LARGE_PARTS = [("text/cloud-config", SHORT), ("text/cloud-config", SHORT), ("application/gzip", LARGE)]
LONG = zipped(b"#!/bin/sh\n" + b"#" * (6 * 2**20))
MANY = b"#cloud-config\nruncmd:\n" + b"-\n" * 18000  # empty entries, because PyYAML parses them fastest


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (
            {"user-data": message(*LARGE_PARTS)},
            "user-data, part 3: a seed may have 6 MiB of YAML",
        ),
        ({"user-data": message(*[("application/gzip", LONG)] * 3)}, "user-data, part 3: gzip data is too large"),
        ({"user-data": message(*[("text/cloud-config", MANY)] * 6)}, "part 6: a seed may have 100000 values in total"),
        ({"user-data": LARGE}, "user-data: a seed may have 6 MiB"),  # in total: it has meta-data too
        ({"user-data": b"MIME-Version: 1.0\n\n" + b"--x\n\n" * 20001}, "more than 20000 lines that begin with `--`"),
        ({"user-data": b"MIME-Version: 1.0\nX: " + b"x" * 2**16 + b"\n\n#!/bin/sh\n"}, "headers of more than 64 KiB"),
    ],
)
def test_a_seed_that_takes_too_long_to_parse_is_refused_with_all_its_parts(
    files: dict[str, bytes], why: str, tmp_path: Path
) -> None:
    device = System(tmp_path)
    store_seed(device, SeedFiles(FILES))
    put(device.path(choosing.ON_ESP), {**FILES, **files})
    choice = choose_seed(device, [], Media.FIRST_BOOT)
    assert choice.accepted.source == "stored"
    assert len(choice.errors) == 1
    assert why in choice.errors[0] and len(choice.errors[0]) < 200


def test_vendor_data_over_the_limit_affects_only_itself() -> None:
    accepted = accept_seed(SeedFiles({**FILES, "vendor-data": message(*LARGE_PARTS)}), "a")
    assert "vendor-data" not in accepted.files
    assert "vendor-data is not used: vendor-data, part 3: a seed may have" in accepted.warnings[0]


def test_a_seed_with_20000_values_and_large_files_is_accepted() -> None:
    values = b"runcmd: [" + b"a, " * 19900 + b"]\n"
    lines = b"".join(b"    " + b"QUJD" * 19 + b"\n" for _ in range(3 * 2**20 // 80))
    files = b"write_files:\n- path: /srv/a\n  encoding: b64\n  content: |\n" + lines
    accept_seed(SeedFiles({**FILES, "user-data": b"#cloud-config\n" + values + files}), "a")


CONFIG = b"#cloud-config\npackages: [a]\n"
ZIPPED = gzip.compress(CONFIG, mtime=0)


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (CONFIG, ["packages"]),
        (b"\xef\xbb\xbf" + CONFIG, ["packages"]),
        (b"\n\n  #Cloud-Config\npackages: [a]\n".replace(b"  #", b"#"), ["packages"]),
        (ZIPPED, ["packages"]),
        (message(("text/cloud-config", CONFIG), ("text/x-shellscript", b"#!/bin/sh\n")), ["packages"]),
        (message(("text/plain", ZIPPED), ("text/cloud-config", b"swap: {}\n")), ["packages", "swap"]),
        (gzip.compress(message(("text/cloud-config", CONFIG)), mtime=0), ["packages"]),
        (b"#cloud-config-archive\n- |\n  #cloud-config\n  swap: {}\n- {type: text/cloud-config, content: 'snap: 1'}\n",
         ["swap", "snap"]),
        (b"#!/bin/sh\necho a\n", []),
        (b"#!/bin/sh\n# caf\xe9\n", []),
        (b"#cloud-boothook\n#!/bin/sh\n", []),
        (b"## template: jinja\n#cloud-config\nhostname: {{ v1.local_hostname }}\n", []),
        (b"#cloud-config\n", []),
        (b"", []),
    ],
)  # fmt: skip
def test_every_format_of_cloud_init_is_supported(data: bytes, keys: list[str]) -> None:
    warnings = accept_seed(SeedFiles({**FILES, "user-data": data}), "a").warnings
    assert [line.split("`")[1] for line in warnings] == keys


def test_names_from_a_seed_cannot_control_a_console() -> None:
    name = 'Content-Disposition: attachment; filename="a\x1b[2J\xff"'
    part = f"Content-Type: text/cloud-config\n{name}\n\n#cloud-config\na: [\n"
    data = f"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n{part}--b--\n".encode("latin-1")
    with pytest.raises(SeedRefused) as caught:
        accept_seed(SeedFiles({**FILES, "user-data": data}), "a")
    assert str(caught.value).isprintable()
    report = SeedReport(errors=["a\x1b[2J\ud800" + "x" * 9999])
    assert report.problem_lines()[0].isprintable() and len(report.problem_lines()[0]) == 500


@pytest.mark.parametrize("levels", [30, 300, 1500])
def test_messages_that_are_nested_too_deeply_are_refused(levels: int) -> None:
    begin = "".join(f"Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n" for level in range(levels))
    end = "".join(f"\n--b{level}--\n" for level in reversed(range(levels)))
    data = f"MIME-Version: 1.0\n{begin}Content-Type: text/cloud-config\n\n#cloud-config\nswap: {{}}\n{end}".encode()
    seed = SeedFiles({**FILES, "user-data": data})
    if levels == 30:
        assert accept_seed(seed, "a").warnings
    else:
        with pytest.raises(SeedRefused, match="user-data has more than 32 levels of nested MIME messages"):
            accept_seed(seed, "a")


def test_an_invalid_part_is_named(tmp_path: Path) -> None:
    data = message(("text/cloud-config", CONFIG), ("text/cloud-config", b"#cloud-config\na: [\n"))
    with pytest.raises(SeedRefused, match=r"user-data, part \d+, line 3, column 1"):
        accept_seed(SeedFiles({**FILES, "user-data": data}), "a")


INCLUDE = b"#include\nhttp://192.0.2.1/a\n"


@pytest.mark.parametrize(
    "data",
    [
        message(("text/cloud-config", CONFIG), ("text/x-include-url", INCLUDE), ("text/x-shellscript", b"#!/bin/sh\n")),
        message(("text/plain", INCLUDE), ("text/cloud-config", CONFIG), ("text/x-include-once-url", INCLUDE)),
        gzip.compress(message(("text/plain", gzip.compress(INCLUDE)), ("text/plain", CONFIG)), mtime=0),
        message(
            (
                "text/plain",
                b"#cloud-config-archive\n- '#include\n\n  http://192.0.2.1/'\n- |\n  " + CONFIG.replace(b"\n", b"\n  "),
            )
        ),
        b"#cloud-config-archive\n- {type: text/x-include-url, content: 'http://192.0.2.1/'}\n- |\n  "
        + CONFIG.replace(b"\n", b"\n  "),
    ],
)
def test_parts_with_urls_are_removed_and_the_others_are_used(data: bytes) -> None:
    accepted = accept_seed(SeedFiles({**FILES, "user-data": data}), "a")
    assert [line for line in accepted.warnings if "`#include` is not followed" in line]
    shown = user_data.inspect_user_data(accepted.files["user-data"], "user-data")
    assert (shown.config, shown.has_unsafe_parts) == ({"packages": ["a"]}, False)


def test_parts_of_unknown_types_are_removed_unless_the_seed_has_a_handler() -> None:
    parts = [("text/cloud-config", CONFIG), ("text/x-own", b"hush\xff"), ("text/plain", b"hush: hush")]
    accepted = accept_seed(SeedFiles({**FILES, "user-data": message(*parts)}), "a")
    assert len([line for line in accepted.warnings if "does not support the type" in line]) == 2
    assert "aHVza" not in gzip.decompress(accepted.files["user-data"]).decode(), "cloud-init quotes it"
    handled = message(("text/part-handler", b"#part-handler\n"), *parts)
    accepted = accept_seed(SeedFiles({**FILES, "user-data": handled}), "a")
    assert gzip.decompress(accepted.files["user-data"]) == handled
    assert not [line for line in accepted.warnings if "does not support the type" in line]


def test_a_first_line_that_may_contain_a_secret_is_not_quoted() -> None:
    head = b"#cloud-config\npassword: "
    for text in (
        b"hush\n",
        b"password: hush\n",
        b"PASSWORD=hush\n",
        head + b"*hush\n",
        head + b"!hush\n",
        head + b"!hush a\n",
    ):
        with pytest.raises(SeedRefused) as caught:
            accept_seed(SeedFiles({**FILES, "user-data": text}), "a")
        assert "hush" not in str(caught.value)
        assert "line " in str(caught.value)


def test_everything_without_effect_is_reported() -> None:
    user = b"#cloud-config\nruncmd: [a]\nusers:\n- {name: a, name: b}\nruncmd: [b]\nhostname:\n"
    meta = b"instance-id: a\ninstance-id: b\nnetwork-interfaces: |\n  iface eth0 inet static\n"
    accepted = accept_seed(
        SeedFiles({"user-data": user, "meta-data": meta, "vendor-data": b"#cloud-config\na: [\n"}), "a"
    )
    assert list(accepted.warnings) == [
        "meta-data, line 2, column 1: `instance-id` appears twice; only the last one has an effect",
        "meta-data: `network-interfaces` has no effect: write it into network-config",
        "vendor-data is not used: vendor-data, line 3, column 1: expected the node content, but found '<stream end>'",
        "user-data, line 4, column 13: `name` appears twice; only the last one has an effect",
        "user-data, line 5, column 1: `runcmd` appears twice; only the last one has an effect",
        "user-data: `hostname` has no effect: it has no value",
    ]
    assert set(accepted.files) == {"user-data", "meta-data"}
    many_keys = b"#cloud-config\n" + b"a: 1\n" * 50
    assert (
        accept_seed(SeedFiles({**FILES, "user-data": many_keys}), "a").warnings[10]
        == "user-data: 39 more keys appear twice"
    )


def test_keys_that_are_not_text_in_yaml_become_text() -> None:
    user = b"#cloud-config\nwrite_files: [{on: a, 80: b, 2020-01-01: c, ~: d, path: /e}]\n"
    accepted = accept_seed(SeedFiles({**FILES, "user-data": user}), "a")
    config = yaml.safe_load(gzip.decompress(accepted.files["user-data"]))
    assert config == {"write_files": [{"on": "a", "80": "b", "2020-01-01": "c", "~": "d", "path": "/e"}]}
    parts = message(("text/cloud-config", user))
    with pytest.raises(SeedRefused, match="user-data, part 1, line 2, column 16: this key is not a text"):
        accept_seed(SeedFiles({**FILES, "user-data": parts}), "a")


def test_a_key_that_replaces_a_merged_key_is_not_a_duplicate() -> None:
    user = b"#cloud-config\nusers:\n- &a {name: a, shell: /bin/sh}\n- {<<: *a, name: b}\n"
    assert accept_seed(SeedFiles({**FILES, "user-data": user}), "a").warnings == ()


@pytest.mark.parametrize(
    ("key", "value", "effective"),
    [("disable_root", False, False), ("disable_root", "no", False), ("disable_root", True, True),
     ("preserve_hostname", True, False), ("preserve_hostname", 0, True), ("ntp", None, False)],
)  # fmt: skip
def test_a_value_may_have_no_effect(key: str, value: object, effective: bool) -> None:
    assert (key not in effective_keys.find_without_effect({key: value})) is effective


def test_keys_without_effect_are_reported_with_the_reason() -> None:
    reasons = effective_keys.find_without_effect(
        {"users": [{"name": "a", "ssh_import_id": ["gh:a"]}], "packges": [], "power_state": {}, "hostname": "a"}
    )
    assert set(reasons) == {"users.ssh_import_id", "packges", "power_state"}
    assert reasons["packges"] == "cloud-init does not know this key"
    assert "would reboot forever" in reasons["power_state"]


@pytest.mark.parametrize(
    "line",
    [
        "{0}  {1}", "{0} *{1}", "{0} {1}", "{0}  ./{1}", "SHA256 ({1}) = {0}", "SHA256({1})= {0}", "  {0}  {1}",
        "\\{0}  {1}", "{0}  {1}\r",
    ],
)  # fmt: skip
def test_every_checksum_format_of_sha256sum_is_accepted(tmp_path: Path, line: str) -> None:
    folder = put(tmp_path, FILES)
    lines = [line.format(hashlib.sha256(data).hexdigest(), name) for name, data in FILES.items()]
    text = "\n".join(["# made by hand", "", *lines, ""])
    (folder / "SHA256SUMS").write_text(text.replace("\r", ""), newline="")
    result = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    (folder / "SHA256SUMS").write_text(text, newline="")
    assert read_seed(folder) == SeedFiles(FILES)
    (folder / "user-data").write_bytes(USER + b"#")
    assert subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True).returncode == 1
    with pytest.raises(SeedRefused, match="user-data does not have the checksum"):
        read_seed(folder)


def test_two_different_checksums_of_one_file_are_refused(tmp_path: Path) -> None:
    folder = put(tmp_path, FILES)
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in FILES.items()]
    (folder / "SHA256SUMS").write_text("".join([*lines, *lines]))
    assert read_seed(folder) == SeedFiles(FILES)
    (folder / "SHA256SUMS").write_text(f"SHA256 (user-data) = {'0' * 64}\n" + "".join(lines))
    with pytest.raises(SeedRefused, match="two different checksums of user-data"):
        read_seed(folder)


def test_checksums_of_other_files_on_the_medium_are_checked(tmp_path: Path) -> None:
    folder = put(tmp_path, {**FILES, "README": b"a"}, sums=True)
    assert read_seed(folder) == SeedFiles(FILES)
    (folder / "README").write_bytes(b"b")
    with pytest.raises(SeedRefused, match="README does not have"):
        read_seed(folder)
    (folder / "README").unlink()
    with pytest.raises(SeedRefused, match="README is listed in SHA256SUMS, but missing in the seed"):
        read_seed(folder)
    (folder / "SHA256SUMS").write_text("what is this\n")
    with pytest.raises(SeedRefused, match="no valid line"):
        read_seed(folder)
    assert checksums.parse_checksums(b"0" * 64 + b"  /etc/shadow") == {"/etc/shadow": "0" * 64}


def test_the_default_seed_is_valid(tmp_path: Path) -> None:
    default = default_seed(System(tmp_path))
    assert read_seed(put(tmp_path / "seed", default.files)) == default
    assert accept_seed(default, "defaults").warnings == ()


def fat(folder: Path, name: str, label: str | None, *, boot_sector: str | None = None, kind: int = 16) -> Path:
    """A FAT file system by mformat(1). mtools writes a label to both places; Windows to the root directory only."""
    path = folder / name
    size = {12: "1440", 16: "40000", 32: "140000"}[kind]
    arguments = ["-F"] if kind == 32 else []
    config = folder / "mtoolsrc"
    config.write_text(f'drive s: file="{path}"\nmtools_skip_check=1\n')
    run = find_mtools(Cache())
    environment = {**os.environ, "MTOOLSRC": str(config)}
    command = ["env", f"MTOOLSRC={config}", "mformat", *arguments, "-C", "-T", size, "-h", "16", "-s", "63",
               *(["-v", label] if label else []), "s:"]  # fmt: skip
    subprocess.run(run(command, [folder]), check=True, capture_output=True, env=environment)
    if boot_sector is not None:
        with path.open("r+b") as file:
            file.seek(71 if kind == 32 else 43)
            file.write(boot_sector.ljust(11).encode())
    return path


@pytest.mark.parametrize("kind", [12, 16, 32])
def test_both_labels_of_a_fat_file_system_are_read(tmp_path: Path, kind: int) -> None:
    assert read_label(fat(tmp_path, "both", "CIDATA", kind=kind)) == "CIDATA"
    assert read_label(fat(tmp_path, "windows", "CIDATA", boot_sector="NO NAME", kind=kind)) == "CIDATA"
    assert read_label(fat(tmp_path, "boot", None, boot_sector="cidata", kind=kind)) == "cidata"
    assert read_label(fat(tmp_path, "other", "ESP", kind=kind)) == "ESP"


def test_media_are_found_by_their_label_in_either_case(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    files = render_seed(Profile(name="a", version="1"), "node-1", folder=tmp_path).with_sums()
    image = make_iso(files)
    devices = {"sr0": image, "loop0": image, "sda": b"", "sda2": bytes(99), "sda3": bytes(10**6)}
    for name, data in devices.items():
        (tmp_path / "dev" / name).write_bytes(data)
    fat(tmp_path / "dev", "sdb1", "cidata")
    fat(tmp_path / "dev", "sda1", "ESP")
    for name in (*devices, "sdb1", "sda1", "sdd"):  # sdd is an empty card reader: it has no medium to open
        (tmp_path / "sys/class/block" / name).mkdir(parents=True)
    assert [path.name for path in find_media(System(tmp_path))] == ["sdb1", "sr0"]


def test_possible_seeds_that_are_not_read_are_reported(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    fat(tmp_path / "dev", "sdb1", "config-2")
    (tmp_path / "sys/class/block/sdb1").mkdir(parents=True)
    put(tmp_path / "efi", {"user-data": USER})
    system = System(tmp_path)
    assert find_seed(system, 0.0) == 0
    warnings = load_report(system).warnings
    assert [line for line in warnings if "sdb1 is a config drive of OpenStack, which is not supported" in line]
    assert [line for line in warnings if "move it into the folder `seed`" in line]
    put(tmp_path / "efi/seed", FILES)
    assert find_seed(system, 0.0) == 0
    assert load_report(system).warnings == []

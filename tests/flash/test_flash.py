"""Whole flashes onto files: what is written, what is held back, what goes on after an interruption."""

import bz2
import gzip
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from osbuild import cli
from osbuild.flash import job, source, target
from osbuild.flash.block_device import Host
from osbuild.flash.plan import MAGIC, WritePlan, make_order, make_plan
from osbuild.flash.writer import TargetState, WriteResult
from osbuild.formats import gpt
from osbuild.formats.bmap import Bmap
from osbuild.formats.fat import Fat
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.image import block_map
from osbuild.seed.esp_seed import find_mtools
from osbuild.shared.errors import Error
from tests.support.disks import unpack_disk
from tests.support.mounted import full, mount_tmpfs

MIB = 2**20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small disk image with its map, plain and compressed, in a folder like that of a build."""
    folder = tmp_path_factory.mktemp("build")
    path = unpack_disk("disk.img", folder)
    wrap, esp = find_mtools(Cache()), gpt.read_table(path).partitions[0]
    # mtools reads no FAT with sectors of 4096 bytes, which that one has; real images have 512.
    run_command(wrap(["mformat", "-i", f"{path}@@{esp.offset}", "-T", "69632", "-h", "64", "-s", "32", "::"], [path]))
    (folder / "disk.bmap").write_text(block_map.make_bmap(path).to_xml())
    (folder / "disk.img.zst").write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    return path


def made(image: Path, bmap: Path | None = None) -> WritePlan:
    source_image = source.find_image(image)
    return make_plan(source_image, source.choose_bmap(source_image, bmap))


def flash(plan: WritePlan, *cards: Path) -> list[WriteResult]:
    return job.flash_targets(plan, [make_order(plan, target.find_target(card, Host()), None, {}) for card in cards])


def full_of_junk(path: Path, size: int) -> Path:
    """A card that was used before."""
    path.write_bytes(hashlib.sha256(b"junk").digest() * (size // 32))
    return path


def edge(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in arguments])
    return int(str(stopped.value.code))


def test_a_file_on_a_full_disk_is_not_called_a_worn_out_card(image: Path, tmp_path: Path) -> None:
    with mount_tmpfs(tmp_path / "small", 2**16) as folder, full(folder):
        [result] = flash(made(image), folder / "card.img")
    assert result.problem is not None and "no space is left for this file" in result.problem.message


def test_only_mapped_ranges_are_written_and_all_of_them(image: Path, tmp_path: Path) -> None:
    size = image.stat().st_size + 5 * MIB
    card = full_of_junk(tmp_path / "card", size)
    junk = card.read_bytes()
    [result] = flash(made(image.parent / "disk.img.zst", image.parent / "disk.bmap"), card)
    assert (result.state, result.problem) == (TargetState.done, None)
    after, before = card.read_bytes(), image.read_bytes()
    ranges = block_map.make_bmap(image).ranges
    assert result.verified == sum(each.size for each in ranges)
    for each in ranges[1:]:
        assert after[each.offset : each.end] == before[each.offset : each.end]
    assert after[MIB : ranges[0].end] == before[MIB : ranges[0].end]
    for one, two in pairwise(ranges):
        assert after[one.end : two.offset] == junk[one.end : two.offset]
    table = gpt.read_table(card)
    assert (table.size, table.partitions) == (size, gpt.read_table(image).partitions)


@pytest.mark.parametrize("packed", ["plain", "zst", "gz"])
def test_without_a_map_every_zero_is_written(packed: str, image: Path, tmp_path: Path) -> None:
    path = image.parent / "disk.img.zst"
    if packed == "gz":
        path = tmp_path / "image.gz"
        path.write_bytes(gzip.compress(image.read_bytes(), 1))
    elif packed == "plain":  # without a partition table that tells what matters, holes do
        path = tmp_path / "other.img"
        path.write_bytes(bytearray(446) + bytes(64) + b"\x55\xaa" + bytes(2 * MIB) + b"end" * 1000)
    size = len(gzip.decompress(path.read_bytes())) if packed == "gz" else source.find_image(path).size
    assert size is not None
    card = full_of_junk(tmp_path / "card", -(-size // 4096) * 4096)
    [result] = flash(made(path), card)
    assert result.state is TargetState.done
    assert card.read_bytes()[:size] == (path if packed == "plain" else image).read_bytes()


def test_a_target_that_is_made_is_sparse_and_the_same(image: Path, tmp_path: Path) -> None:
    [result] = flash(made(image.parent / "disk.img.zst"), tmp_path / "card")
    assert result.state is TargetState.done and (tmp_path / "card").read_bytes() == image.read_bytes()
    assert (tmp_path / "card").stat().st_blocks * 512 < image.stat().st_size // 2


def wrong_second_half(plan: WritePlan) -> WritePlan:
    """An image that turns out not to be its map's when half of it is written."""
    assert plan.bmap is not None
    ranges = plan.bmap.ranges
    ranges = (*ranges[:-2], replace(ranges[-2], digest="0" * 64), ranges[-1])
    return replace(plan, bmap=Bmap(plan.bmap.size, ranges))


def test_a_broken_write_does_not_boot_and_the_same_command_goes_on(image: Path, tmp_path: Path) -> None:
    right = made(image, image.parent / "disk.bmap")
    size = image.stat().st_size + 3 * MIB
    card = full_of_junk(tmp_path / "card", size)
    assert flash(right, card)[0].state is TargetState.done
    assert gpt.read_table(card).size == size
    other = replace(wrong_second_half(right), identity="0" * 32)
    [broken] = flash(other, card)
    assert broken.state is TargetState.unfinished and "does not match its block map" in str(broken.problem)
    beginning = card.read_bytes()[:MIB]
    assert beginning.startswith(MAGIC) and b"EFI PART" not in beginning and beginning[510:512] != b"\x55\xaa"
    [broken] = flash(wrong_second_half(right), card)
    assert not broken.resumed, "what was begun is another image"
    [result] = flash(right, card)
    assert (result.state, result.resumed) == (TargetState.done, True)
    assert right.bmap is not None
    assert result.same > 0 and result.same + result.written >= right.bmap.mapped - MIB
    assert gpt.read_table(card).size == size


def test_a_write_that_an_earlier_version_began_is_continued(image: Path, tmp_path: Path) -> None:
    right = made(image, image.parent / "disk.bmap")
    card = full_of_junk(tmp_path / "card", image.stat().st_size)
    flash(wrong_second_half(right), card)
    beginning = card.read_bytes()[:MIB]
    assert beginning.rstrip(b"\0").endswith(b"it continues where it stopped.\n")
    earlier = beginning.rstrip(b"\0").replace(b"it continues where", b"it goes on where").ljust(MIB, b"\0")
    with card.open("r+b") as file:
        file.write(earlier)
    [result] = flash(right, card)
    assert result.resumed and result.state is TargetState.done
    assert gpt.read_table(card).size == card.stat().st_size


def test_what_is_lost_while_a_write_rests_is_written_again(image: Path, tmp_path: Path) -> None:
    right = made(image, image.parent / "disk.bmap")
    card = full_of_junk(tmp_path / "card", image.stat().st_size)
    flash(wrong_second_half(right), card)
    assert right.bmap is not None
    place = right.bmap.ranges[1].offset + 5
    with card.open("r+b") as file:
        file.seek(place)
        file.write(b"lost")
    [result] = flash(right, card)
    assert result.resumed and result.state is TargetState.done
    assert card.read_bytes()[place : place + 4] == image.read_bytes()[place : place + 4]


def test_a_target_that_fails_does_not_hold_up_the_others(image: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a file system that is full."""
    size = image.stat().st_size
    full_of_junk(tmp_path / "good", size)
    full_of_junk(tmp_path / "bad", size + 8 * MIB)
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {resource.RLIM_INFINITY}));"
        "from osbuild.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "flash", str(image), "bad", "good", "--yes", "--json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    bad, good = json.loads(result.stdout)["targets"]
    assert good["state"] == "done" and good["error"] is None
    assert bad["state"] in ("unclear", "unfinished") and "no space is left" in bad["error"]["message"]
    assert "bad: UNFINISHED" in result.stderr and "good: done" in result.stderr
    assert gpt.read_table(tmp_path / "good") == gpt.read_table(image)
    with pytest.raises(Error):
        gpt.read_table(tmp_path / "bad")


def test_an_interrupted_flash_says_what_it_leaves(image: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.img.bz2"  # half a second to unpack
    noise = random.Random(1).randbytes(6 * MIB)
    slow.write_bytes(bz2.compress(image.read_bytes()[:MIB] + noise + bytes(50 * MIB), 1))
    card = full_of_junk(tmp_path / "card", 70 * MIB)
    command = [sys.executable, "-m", "osbuild", "flash", str(slow), str(card), "--yes", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    file = os.open(card, os.O_RDONLY)
    try:
        while process.poll() is None and os.pread(file, len(MAGIC), 0) != MAGIC:
            time.sleep(0.001)
    finally:
        os.close(file)
    process.send_signal(signal.SIGINT)
    messages = process.communicate(timeout=60)[1]
    assert process.returncode == 130, messages
    assert f"{card}: UNFINISHED, it does not boot" in messages and "run the same command again" in messages
    assert card.read_bytes()[: len(MAGIC)] == MAGIC
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["targets"][0]["resumed"] is True
    assert gpt.read_table(card).size == 70 * MIB


def seed_on(card: Path) -> dict[str, bytes]:
    esp = gpt.read_table(card).partitions[0]
    with card.open("rb") as file:
        fat = Fat(file, esp.offset, str(card))
        return {each.path.name: fat.read(each) for each in fat.walk() if str(each.path).startswith("seed/")}


def test_one_image_makes_many_nodes(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text("name: tiny\nversion: 1.0.0\n")
    for name in ("one", "two"):
        full_of_junk(tmp_path / name, image.stat().st_size + 2 * MIB)
    arguments = ["--profile", "tiny.yaml", "--set", "time.servers=[192.0.2.1]", "--yes"]
    assert edge("flash", image.parent, "one", "two", "--node", "edge-1", "--node", "edge-2", *arguments) == 0
    seeds = [seed_on(tmp_path / name) for name in ("one", "two")]
    for node, seed in zip(("edge-1", "edge-2"), seeds, strict=True):
        assert set(seed) == {"user-data", "meta-data", "network-config", "SHA256SUMS"}
        assert f"instance-id: {node}-" in seed["meta-data"].decode().replace('"', "")
        assert b"192.0.2.1" in seed["user-data"]
        for line in seed["SHA256SUMS"].decode().splitlines():
            digest, _, name = line.partition("  ")
            assert hashlib.sha256(seed[name]).hexdigest() == digest
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600, "a seed holds secrets"
    assert edge("seed", "tiny.yaml", "--node", "edge-3", "-o", "three.iso") == 0
    assert edge("flash", image.parent / "disk.img.zst", "three", "--seed", "three.iso", "--yes") == 0
    assert b"edge-3" in seed_on(tmp_path / "three")["meta-data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "two", "--node", "a", "--yes"], "1 for 2 targets"),
        (["one", "two", "--node", "a", "--node", "a"], "the same value twice"),
        (["one", "--node", "a", "--seed", "x.iso"], "cannot be combined"),
        (["one", "--set", "hostname=a"], "--node NAME"),
        (["one", "--bmap", "x", "--no-bmap"], "cannot be combined"),
        (["one", "--bmap", "missing"], "this block map does not exist"),
        (["one", "one"], "name every target once"),
        (["one", "--node", "a"], "no manifest beside disk.img"),
        (["one", "--size", "1"], ""),
        (["card"], "would overwrite card"),
        (["--yes"], "Missing argument"),
    ],
)
def test_wrong_command_lines_end_with_2_and_touch_nothing(
    arguments: list[str], message: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    card = full_of_junk(Path("card"), 2 * MIB)
    os.truncate(card, image.stat().st_size)
    before = card.read_bytes()
    expected = 1 if arguments[1:] == ["--size", "1"] else 2
    assert edge("flash", image, *arguments) == expected
    output = capsys.readouterr().err
    assert message in re.sub(r"\s+", " ", output) and "Traceback" not in output
    assert card.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["card"]


def test_images_that_are_none_and_targets_too_small_are_refused(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = full_of_junk(tmp_path / "small", image.stat().st_size - 4096)
    before = small.read_bytes()
    text = tmp_path / "README"
    text.write_text("no image\n" * 1000)
    packed = (image.parent / "disk.img.zst").read_bytes()
    cut, odd = tmp_path / "cut.img.zst", tmp_path / "odd.img"
    cut.write_bytes(packed[:-9])
    odd.write_bytes(image.read_bytes()[: -1 * MIB])
    for path, reason in ((image, "bytes are not enough"), (text, "no partition table"), (cut, "truncated"),
                       (odd, "truncated"), (tmp_path / "none", "does not exist"),
                       (Path("/dev"), "contains no disk.img")):  # fmt: skip
        assert edge("flash", path, small, "--yes") == 1
        output = re.sub(r"\s+", " ", capsys.readouterr().err)
        assert reason in output and "hint:" in output
    assert edge("flash", "/dev/zero", small, "--yes") == 2
    assert "name a file or a folder" in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert small.read_bytes() == before


@pytest.mark.parametrize(
    ("trust", "warning"),
    [
        ({"development": True}, "this image trusts DEVELOPMENT keys"),
        ({"development": False}, ""),
        (None, "it is not known whose updates this image accepts"),
    ],
)
def test_an_image_that_trusts_development_keys_or_may_do_so_is_warned_of(
    trust: dict[str, bool] | None, warning: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    if trust is not None:
        manifest = {"name": "n", "trust": {"owner": "o", **trust}, "files": {"disk.img": {"size": 1, "used": 1}}}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert edge("flash", copy, tmp_path / "card") == 0
    output = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert warning in output and ("DEVELOPMENT" in output) is bool(warning)


def test_many_targets_at_once_end_with_every_thread(image: Path, tmp_path: Path) -> None:
    before = threading.active_count()
    results = flash(made(image.parent / "disk.img.zst"), *(tmp_path / str(number) for number in range(6)))
    assert [each.state for each in results] == [TargetState.done] * 6
    assert threading.active_count() == before


def test_the_map_of_another_build_is_refused_before_a_card_is_touched(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "disk.img"
    data = bytearray(image.read_bytes())
    data[gpt.read_table(image).partitions[0].offset + 3] ^= 1
    other.write_bytes(data)
    with pytest.raises(Error, match="does not match its block map: bytes 0 to"):
        made(other, image.parent / "disk.bmap")


@pytest.mark.parametrize("more", [0, 512, 16 * 512, 33 * 512])
def test_a_card_that_is_hardly_larger_gets_its_table_at_its_end(more: int, image: Path, tmp_path: Path) -> None:
    """The new backup of the table lies over the one of the image, which is mapped."""
    card = full_of_junk(tmp_path / "card", size := image.stat().st_size + more)
    [result] = flash(made(image, image.parent / "disk.bmap"), card)
    assert (result.state, result.problem) == (TargetState.done, None)
    assert gpt.read_table(card).size == size

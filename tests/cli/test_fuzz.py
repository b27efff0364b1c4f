"""Damaged files of every kind, given to every command that reads them: one clear error, never a defect or a hang.

EDGE_FUZZ_COUNT and EDGE_FUZZ_SEED make longer and other runs.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import signal
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
import zstandard

from osbuild import cli
from osbuild.formats import gpt
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.image import block_map
from osbuild.seed.esp_seed import find_mtools
from tests.support.builds import make_build
from tests.support.disks import unpack_disk, write_sparse
from tests.support.mounted import mount_tmpfs

COUNT = int(os.environ.get("EDGE_FUZZ_COUNT", "8"))  # damaged variants of each pair of command and file
SEED = os.environ.get("EDGE_FUZZ_SEED", "1")
PATIENCE = 60  # seconds for one command
PROFILE = "name: tiny\nversion: 1.0.0\nusers:\n  - {name: admin, ssh_keys: ['file:key.pub']}\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory with a whole file of each kind."""
    with mount_tmpfs(tmp_path_factory.mktemp("fuzz") / "fs", 900 * 2**20) as folder:
        disk = unpack_disk("disk.img", folder)
        esp = gpt.read_table(disk).partitions[0]
        # mtools reads no FAT with sectors of 4096 bytes, which that one has; real images have 512.
        arguments = ["mformat", "-i", f"{disk}@@{esp.offset}", "-T", "69632", "-h", "64", "-s", "32", "::"]
        run_command(find_mtools(Cache())(arguments, [disk]))
        (folder / "loader").write_bytes(b"x" * 9000)
        where = f"{disk}@@{esp.offset}"
        run_command(find_mtools(Cache())(["mmd", "-i", where, "::EFI", "::EFI/Linux"], [disk]))
        run_command(
            find_mtools(Cache())(["mcopy", "-i", where, str(folder / "loader"), "::EFI/Linux/edge-a+3.efi"], [folder])
        )
        (folder / "disk.bmap").write_text(block_map.make_bmap(disk).to_xml())
        data = disk.read_bytes()
        (folder / "disk.img.zst").write_bytes(zstandard.ZstdCompressor().compress(data))
        (folder / "disk.img.gz").write_bytes(gzip.compress(data, 1))
        (folder / "disk.img.bz2").write_bytes(bz2.compress(data, 1))
        (folder / "disk.img.xz").write_bytes(lzma.compress(data, preset=0))
        (folder / "tiny.yaml").write_text(PROFILE)
        (folder / "key.pub").write_text(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIASHHjuBzZbwoz3erk3DPUBw0Z95yMo2zgj7jLufE7ZQ a\n"
        )
        assert status("seed", folder / "tiny.yaml", "--node", "n", "-o", folder / "n.iso") == 0
        assert status("keys", "init", folder / "keys", "--owner", "me") == 0
        make_build(folder / "build")
        yield folder


def status(*arguments: str | Path) -> object:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in arguments])
    return stopped.value.code


def fresh(lab: Path) -> Path:
    """An empty folder, in the place of the last one."""
    work = lab / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return work


Chance = random.Random
Damage = Callable[[bytes, Chance], bytes]


def flipped(data: bytes, chance: Chance) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 30))):
        # Most of what is read of an image is at its beginning, or at that of its first partition.
        place = chance.randrange(min(len(changed), chance.choice((512, 4096, 2**16, 2**21, len(changed)))))
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def noisy(data: bytes, chance: Chance) -> bytes:
    place, size = chance.randrange(len(data)), chance.choice((1, 4, 64, 4096))
    return data[:place] + chance.randbytes(size) + data[place + size :]


def zeroed(data: bytes, chance: Chance) -> bytes:
    place, size = chance.randrange(len(data)), chance.choice((8, 512, 4096, 2**20))
    return data[:place] + bytes(min(size, len(data) - place)) + data[place + size :]


def extreme(data: bytes, chance: Chance) -> bytes:
    """A number somewhere near the beginning becomes as large or small as it can be."""
    place = chance.randrange(0, min(len(data), 2**16), 2)
    number = chance.choice((b"\xff" * 2, b"\xff" * 4, b"\xff" * 8, bytes(4), b"\x00\x80", b"\xff\xff\xff\x7f"))
    return data[:place] + number + data[place + len(number) :]


def cut(data: bytes, chance: Chance) -> bytes:
    return data[
        : chance.choice((0, 1, 100, 511, 512, 1024, len(data) // 2, len(data) - 1, chance.randrange(len(data))))
    ]


def longer(data: bytes, chance: Chance) -> bytes:
    return data + chance.choice((b"\0", b"x", bytes(4096), data[:4096], chance.randbytes(100)))


def swapped(data: bytes, chance: Chance) -> bytes:
    """Text: a line twice, one less, or another's value."""
    lines = data.splitlines(keepends=True)
    place, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[place] = chance.choice((lines[other], b"", lines[place] * 2, lines[place].rstrip()[::-1] + b"\n"))
    return b"".join(lines)


def repaired(data: bytes, chance: Chance) -> bytes:
    """A GPT whose header or entries are changed, with the checksums right again."""
    changed = bytearray(data)
    sector = 512 if changed[512:520] == b"EFI PART" else 4096
    if changed[sector : sector + 8] != b"EFI PART":
        return flipped(data, chance)
    place = chance.choice((sector + chance.randrange(24, 92), 2 * sector + chance.randrange(1024)))
    changed[place : place + 4] = chance.choice((chance.randbytes(4), b"\xff" * 4, bytes(4)))
    (count, step) = struct.unpack_from("<II", changed, sector + 80)
    entries = bytes(changed[2 * sector : 2 * sector + min(count * step, 2**20)])
    struct.pack_into("<I", changed, sector + 88, zlib.crc32(entries))
    changed[sector + 16 : sector + 20] = bytes(4)
    struct.pack_into("<I", changed, sector + 16, zlib.crc32(bytes(changed[sector : sector + 92])))
    return bytes(changed)


DAMAGES: tuple[Damage, ...] = (flipped, noisy, zeroed, extreme, cut, longer, swapped, repaired)
FILES = (
    "disk.img", "disk.img.zst", "disk.img.gz", "disk.img.bz2", "disk.img.xz", "disk.bmap", "n.iso",
    "tiny.yaml", "key.pub",
    "keys/keys.json", "keys/root-1.crt", "keys/root-1.crl", "keys/signer-1.crt", "keys/signer-1.key",
    "build/manifest.json", "build/root.verity", "build/root.erofs", "build/edge-a.efi",
)  # fmt: skip
COMMANDS = {
    "disk.img": (["inspect", "{}"], ["inspect", "{}", "--json"], ["flash", "{}", "{out}", "--yes"],
                 ["flash", "{}", "{out}", "--yes", "--seed", "{lab}/n.iso"],
                 ["seed", "{lab}/tiny.yaml", "--node", "n", "--into", "{}"]),
    "disk.img.zst": (["inspect", "{}"], ["flash", "{}", "{out}", "--yes"]),
    "disk.img.gz": (["flash", "{}", "{out}", "--yes"],),
    "disk.img.bz2": (["flash", "{}", "{out}", "--yes"],),
    "disk.img.xz": (["flash", "{}", "{out}", "--yes"],),
    "disk.bmap": (["flash", "{lab}/disk.img", "{out}", "--yes", "--bmap", "{}"],),
    "n.iso": (["flash", "{lab}/disk.img", "{out}", "--yes", "--seed", "{}"],),
    "tiny.yaml": (["profile", "check", "{}"], ["seed", "{}", "--node", "n", "-o", "{out}.iso"]),
    "key.pub": (["seed", "{dir}/tiny.yaml", "--node", "n", "-o", "{out}.iso"],),
    "keys": (["keys", "show", "{dir}"], ["keys", "rotate", "{dir}"], ["keys", "revoke", "signer-1", "{dir}"]),
    "build": (["inspect", "{dir}", "--against", "{lab}/build"], ["inspect", "{lab}/build", "--against", "{dir}"]),
}  # fmt: skip


def commands(name: str) -> tuple[list[str], ...]:
    return COMMANDS[name if name in COMMANDS else name.partition("/")[0]]


def stopped(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"it hangs: nothing after {PATIENCE} s")


def clear_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command, which ends in time, with a status and an error that are meant."""
    before = signal.signal(signal.SIGALRM, stopped)
    signal.alarm(PATIENCE)
    try:
        code = status(*arguments)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    messages = capsys.readouterr().err
    assert code in (0, 1, 2), arguments
    for word in ("should not happen", "Traceback", "report this"):
        assert word not in messages, f"{arguments}: {messages}"
    assert code == 0 or "error: " in messages.lower() or "UNFINISHED" in messages, arguments


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_clear_error(name: str, lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, top = (lab / name).read_bytes(), name.partition("/")[0]
    chance = random.Random(f"{SEED} {name}")
    for number in range(COUNT):
        work = fresh(lab)
        if "/" in name:
            shutil.copytree(lab / top, work / top)
        elif name == "key.pub":
            shutil.copy(lab / "tiny.yaml", work)
        path = work / name
        damage = DAMAGES[number % len(DAMAGES)] if number < len(DAMAGES) else chance.choice(DAMAGES)
        write_sparse(path, damage(whole, chance))
        folder = path.parent
        for arguments in commands(name):
            clear_error([word.format(path, out=work / "out", lab=lab, dir=folder) for word in arguments], capsys)
            (work / "out").unlink(missing_ok=True)


def archive(data: bytes) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as file:
        file.writestr("disk.img", data)
    return output.getvalue()


KINDS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "zip": ("zip archive", archive),
    "lzma": ("lzma", lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
    "7z": ("7z archive", lambda data: b"7z\xbc\xaf\x27\x1c\x00\x04" + data),
    "rar": ("rar archive", lambda data: b"Rar!\x1a\x07\x01\x00" + data),
    "lz4": ("lz4", lambda data: b"\x04\x22\x4d\x18" + data),
    "lzip": ("lzip", lambda data: b"LZIP\x01" + data),
    "compress": ("compress", lambda data: b"\x1f\x9d\x90" + data),
    "qcow2": ("qcow2", lambda data: b"QFI\xfb\0\0\0\x03" + data),
    "vmdk": ("VMDK", lambda data: b"KDMV\1\0\0\0" + data),
    "vhdx": ("VHDX", lambda data: b"vhdxfile" + data),
    "vdi": ("VDI", lambda data: b"<<< Oracle VM VirtualBox Disk Image >>>\n" + data),
    "bundle": ("update bundle", lambda data: b"hsqs" + data),
    "tar": ("tar archive", lambda data: (b"disk.img".ljust(257, b"\0") + b"ustar\0").ljust(512, b"\0") + data),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_an_image_is_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, make = KINDS[kind]
    path = tmp_path / "disk.img"
    path.write_bytes(make(b"data" * 4096))
    usages: list[list[str | Path]] = [["flash", path, tmp_path / "out", "--yes"]]
    usages += [["run", path]] if kind != "qcow2" else []
    for command in usages:
        assert status(*command) == 1
        output = capsys.readouterr().err
        assert arguments in output
        assert "hint:" in output
    assert not (tmp_path / "out").exists()


def test_things_in_the_place_of_files_are_clear_errors(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders, FIFOs, sparse and huge files, links in circles, and files of which nothing may be read."""

    def fifo(path: Path) -> None:
        os.mkfifo(path)

    def huge(path: Path) -> None:
        path.touch()
        os.truncate(path, 2**40)

    makers: tuple[Callable[[Path], object], ...] = (
        Path.mkdir, fifo, huge, lambda path: path.symlink_to(path.name), lambda path: path.symlink_to("nothing"),
        lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to("/proc/self/mem"),
    )  # fmt: skip
    for name in FILES:
        for make in makers:
            if make is huge and name.startswith(("disk.img", "build/")):
                continue  # an image of that size is one, and to hash it takes hours
            work = fresh(lab)
            top = name.partition("/")[0]
            if "/" in name:
                shutil.copytree(lab / top, work / top)
                (work / name).unlink()
            elif name == "key.pub":
                shutil.copy(lab / "tiny.yaml", work)
            make(work / name)
            for arguments in commands(name):
                clear_error(
                    [
                        word.format(work / name, out=work / "out", lab=lab, dir=(work / name).parent)
                        for word in arguments
                    ],
                    capsys,
                )


def test_a_file_that_becomes_shorter_while_it_is_read_is_a_clear_error(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lab / "shrinking.img"
    shutil.copy(lab / "disk.img", path)
    seek, left = os.lseek, [3]

    def shrinking(*arguments: int) -> int:
        left[0] -= 1
        if not left[0]:
            os.truncate(path, 2**20)
        return seek(*arguments)

    monkeypatch.setattr(os, "lseek", shrinking)
    clear_error(["flash", str(path), str(lab / "out"), "--yes"], capsys)
    path.unlink()


def test_a_manifest_beside_an_image_may_be_anything(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = lab / "beside"
    work.mkdir()
    (work / "disk.img").symlink_to(lab / "disk.img")
    wrong = {"name": [1], "version": {}, "board": 5, "architecture": [], "files": 7, "packages": 3, "components": "x",
             "largest": {"a": 1}, "trust": []}  # fmt: skip
    texts = [
        "",
        "[]",
        "null",
        "7",
        '"x"',
        "{",
        "\0",
        json.dumps(wrong),
        "[" * 100_000,
        json.dumps({"board": "../../x"}),
    ]
    texts += [json.dumps({name: value}) for name, value in wrong.items()]
    for text in texts:
        (work / "manifest.json").write_text(text)
        for arguments in (["inspect", work], ["inspect", work, "--json"],
                      ["flash", work, work / "out", "--yes", "--node", "n"],
                      ["bundle", work], ["inspect", work, "--against", work]):  # fmt: skip
            clear_error([str(word) for word in arguments], capsys)
        (work / "out").unlink(missing_ok=True)

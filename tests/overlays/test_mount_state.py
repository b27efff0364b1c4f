"""Which data partition the initrd makes anew: `empty` of the script mount-state, with the host's blkid(8)."""

import re
import subprocess
from pathlib import Path

import pytest

from osbuild.host.paths import PROJECT

SCRIPT = PROJECT / "overlays/base/usr/lib/edge-osbuild/mount-state"
SIZE = 32 * 2**20


def is_empty(data: Path) -> bool:
    function = re.search(r"^empty\(\) \{.*?^\}$", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    assert function
    text = f'data="$1"\n{function[0]}\nif empty; then echo yes; else echo no; fi'
    result = subprocess.run(["sh", "-euc", text, "sh", data], capture_output=True, text=True, check=True)
    return result.stdout == "yes\n"


def partition(path: Path, *parts: tuple[int, bytes]) -> Path:
    """A file of zeros with bytes at some offsets."""
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
    return path


@pytest.mark.parametrize(
    "parts", [[], [(0, b"\xff" * 65536)], [(0, bytes(range(256)) * 4096)]], ids=["zeros", "ones", "noise"]
)
def test_a_partition_without_any_signature_is_empty(tmp_path: Path, parts: list[tuple[int, bytes]]) -> None:
    assert is_empty(partition(tmp_path / "data", *parts))


@pytest.mark.parametrize(
    "part",
    [
        (0, b"LUKS\xba\xbe\0\x02" + bytes(504)),
        (1024, b"\1\0\0\0\x64\0\0\0" + bytes(3054) + b"SWAPSPACE2"),
        (1024 + 56, b"\x53\xef\x01\0\x01\0" + bytes(14) + b"\x01\0\0\0"),
    ],
    ids=["LUKS", "swap", "ext4"],
)
def test_a_partition_that_holds_something_is_never_made_anew(tmp_path: Path, part: tuple[int, bytes]) -> None:
    data = partition(tmp_path / "data", part)
    probe = subprocess.run(["blkid", "--probe", data], capture_output=True, text=True)
    if "TYPE=" not in probe.stdout:
        pytest.fail(f"blkid does not know this signature: {probe}")
    assert not is_empty(data)


def test_a_partition_that_cannot_be_read_is_never_made_anew(tmp_path: Path) -> None:
    assert not is_empty(tmp_path / "missing")

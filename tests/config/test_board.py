"""Boards as data."""

from pathlib import Path

import pytest

from osbuild.cli.board_options import chosen_boards
from osbuild.config import board as boards
from osbuild.config.board import load_board, shipped_boards
from osbuild.config.load import load_profile
from osbuild.host.architecture import Architecture
from osbuild.pipeline.build import build_folder
from osbuild.shared.errors import Error, UsageError

UBOOT = """\
name: mine
description: a board of my own
architecture: arm64
boot: uboot
packages: [u-boot-sunxi]
device_trees: [allwinner/sun50i-a64-pine64.dtb]
uboot:
  script_address: "0x4fc00000"
  state_address: "0x4fd00000"
  device_tree_address: "0x4fa00000"
  kernel_address: "0x40080000"
  image_address: "0x50000000"
"""


@pytest.mark.parametrize("name", shipped_boards())
def test_every_shipped_board_reads_and_is_called_like_its_file(name: str) -> None:
    board = load_board(name)
    assert board.name == name
    assert board.console
    assert board.boot == "uefi" or {"u-boot.bin", "config.txt"} <= {*board.files, *board.texts}


def test_each_architecture_has_a_board_of_its_name() -> None:
    for architecture in Architecture:
        board = boards.default_board(architecture)
        assert (board.name, board.architecture, board.boot) == (str(architecture), architecture, "uefi")


def test_a_board_of_ones_own_needs_a_file_and_no_code(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(UBOOT)
    assert load_board("./mine.yaml", tmp_path).uboot.image_address == "0x50000000"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("packages: [u-boot-sunxi]\n", ""), "`packages` is empty"),
        (("device_trees: [allwinner/sun50i-a64-pine64.dtb]\n", ""), "`device_trees` is empty"),
        (('  state_address: "0x4fd00000"\n', ""), "`uboot.state_address` is missing"),
        (("boot: uboot", "boot: grub"), "grub"),
        (("0x50000000", "5000"), "uboot.image_address"),
        (("name: mine\n", ""), "no `name`"),
        (("name: mine\n", "name: mine\narguments: [quiet init=/bin/sh]\n"), "`init=/bin/sh`"),
    ],
)
def test_an_invalid_board_is_reported_with_its_position(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "mine.yaml").write_text(UBOOT.replace(*change))
    with pytest.raises(Error, match=message) as caught:
        load_board("./mine.yaml", tmp_path)
    assert "mine.yaml" in str(caught.value.where)
    assert caught.value.hint


def test_an_unknown_board_is_wrong_usage_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="rpi33") as caught:
        load_board("rpi33")
    assert caught.value.hint == "did you mean `rpi3`?"


def profile(folder: Path, more: str = "") -> str:
    (folder / "shop.yaml").write_text(f"name: shop\nversion: 1.0.0\n{more}")
    return str(folder / "shop.yaml")


@pytest.mark.parametrize(
    ("more", "arch", "board", "expected"),
    [
        ("", None, None, ["x86_64"]),
        ("architecture: arm64\n", None, None, ["arm64"]),
        ("architecture: arm64\n", "armv7", None, ["armv7"]),
        ("board: rpi2\n", None, None, ["rpi2"]),
        ("board: rpi2\n", "arm64", None, ["arm64"]),
        ("board: rpi2\n", None, "rpi4", ["rpi4"]),
        ("", "arm64", "rpi4", ["rpi4"]),
        ("board: rpi2\n", "all", None, ["x86_64", "arm64", "armv7"]),
    ],
)
def test_the_last_stated_board_determines_the_architecture(
    tmp_path: Path, more: str, arch: str | None, board: str | None, expected: list[str]
) -> None:
    chosen = chosen_boards(profile(tmp_path, more), arch, board)
    assert [board_of_image.name for _, board_of_image in chosen] == expected
    assert all(loaded.profile.architecture is board_of_image.architecture for loaded, board_of_image in chosen)
    assert build_folder(*chosen[0], tmp_path) == tmp_path / f"shop-1.0.0-{expected[0]}"


@pytest.mark.parametrize(("arch", "board"), [("all", "rpi3"), ("armv7", "rpi3"), (None, "nothing")])
def test_boards_that_contradict_are_wrong_usage(tmp_path: Path, arch: str | None, board: str) -> None:
    with pytest.raises(UsageError):
        chosen_boards(profile(tmp_path), arch, board)


def test_a_profiles_own_board_is_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(UBOOT)
    loaded = load_profile(Path(profile(tmp_path, "board: ./mine.yaml\n")))
    assert boards.board_of(loaded).name == "mine"

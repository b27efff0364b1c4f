"""Sizes and versions, each with one parser and one form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.shared.image_versions import is_image_version, version_key
from osbuild.shared.kubernetes_versions import minor_version, version_numbers
from osbuild.shared.sizes import format_bytes, format_decimal


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.7, "1 KiB"),
        (2**10, "1 KiB"),
        (2**20 - 2**10, "1023 KiB"),
        (2**20 - 1, "1 MiB"),
        (2**20, "1 MiB"),
        (10 * 2**30 - 2**20, "10239 MiB"),
        (10 * 2**30 - 1, "10.0 GiB"),
        (10 * 2**30, "10.0 GiB"),
        (11 * 2**30, "11.0 GiB"),
    ],
)
def test_a_size_has_a_suitable_unit(size: float | None, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_999, "1.0 MB"),
        (999_999_999, "1.0 GB"),
        (10**12 - 1, "1.0 TB"),
        (10**15, "1000 TB"),
    ],
)
def test_a_decimal_size_has_a_suitable_unit(size: float, text: str) -> None:
    assert format_decimal(size) == text


@given(st.floats(0, 2**60))
def test_no_unit_has_more_than_its_numbers(size: float) -> None:
    number, unit = format_bytes(size).split()
    assert float(number) < {"B": 1024, "KiB": 1024, "MiB": 10240}.get(unit, 2**60)
    number, unit = format_decimal(size).split()
    assert float(number) < 1000 or unit == "TB"


@pytest.mark.parametrize("text", ["1.0.0", "1.2.3-rc.1", "1.2.3-rc.1+build.5", "0.0.1+x"])
def test_a_valid_profile_version_can_be_compared_on_a_device(text: str) -> None:
    assert is_image_version(text)
    assert version_key(text) is not None


@pytest.mark.parametrize("text", ["", "1", "1.0", "v1.0.0", "1.0.0 ", "1.0.0\n", "today"])
def test_another_form_is_not_a_profile_version(text: str) -> None:
    assert not is_image_version(text)


def test_versions_of_kubernetes_are_compared_by_their_numbers() -> None:
    assert version_numbers("v1.36.10") == (1, 36, 10, 0)
    assert version_numbers("v1.35.0+k3s1") == (1, 35, 0, 1)
    assert minor_version("v1.35.0-rc1+k3s1") == (1, 35)
    for text in ("", "1.36.3", "v1.36", "v1.36.3-rc1", "v1.36.3+k0s1"):
        assert version_numbers(text) is None

"""Sizes and versions, each with one parser and one form."""

import pytest

from osbuild.shared.image_versions import is_image_version, version_key
from osbuild.shared.kubernetes_versions import minor_version, version_numbers
from osbuild.shared.sizes import format_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (2**10, "1 KiB"),
        (2**20, "1 MiB"),
        (10 * 2**30 - 1, "10240 MiB"),
        (11 * 2**30, "11.0 GiB"),
    ],
)
def test_a_size_has_a_suitable_unit(size: int | None, text: str) -> None:
    assert format_bytes(size) == text


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

"""`image.json`: the text that a build writes, and what the agent makes of text that is not a description."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from osbuild.agent.system import System
from osbuild.shared.image_description import (
    DESCRIPTION_FILE,
    HealthLimits,
    ImageDescription,
    ImageKubernetes,
    SeedRule,
    UpdateLimits,
)  # fmt: skip

TEXT = """\
{
  "architecture": "x86_64",
  "board": "x86_64",
  "boot": "uefi",
  "health": {
    "deadline": 600
  },
  "kubernetes": {
    "distribution": "k3s",
    "role": "server",
    "version": "v1.36.3+k3s1"
  },
  "name": "edge-server",
  "seed": {
    "media": "first-boot"
  },
  "update": {
    "deadline": 3600,
    "drain_deadline": 120,
    "snapshot_space": 536870912,
    "snapshots": 3
  },
  "version": "1.0.0"
}
"""
DESCRIPTION = ImageDescription(
    name="edge-server",
    version="1.0.0",
    architecture="x86_64",
    board="x86_64",
    boot="uefi",
    kubernetes=ImageKubernetes(distribution="k3s", role="server", version="v1.36.3+k3s1"),
    health=HealthLimits(deadline=600),
    update=UpdateLimits(deadline=3600, drain_deadline=120, snapshots=3, snapshot_space=512 * 2**20),
    seed=SeedRule(media="first-boot"),
)


def test_the_text_of_a_description_is_that_of_earlier_images() -> None:
    assert DESCRIPTION.to_text() == TEXT
    assert ImageDescription.parse(TEXT) == DESCRIPTION


def test_an_image_without_kubernetes_has_only_the_role() -> None:
    description = replace(DESCRIPTION, kubernetes=ImageKubernetes(role="none"))
    assert json.loads(description.to_text())["kubernetes"] == {"role": "none"}


def test_keys_of_a_later_version_are_kept() -> None:
    document = {"name": "x", "colour": "green", "kubernetes": {"role": "none", "more": 1}}
    assert json.loads(ImageDescription.parse(json.dumps(document)).to_text()) == document


@pytest.mark.parametrize("text", ["", "[]", '{"name": 1}', '{"seed": 1}', "{" * 10**5])
def test_text_that_is_not_a_description_is_like_a_missing_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / DESCRIPTION_FILE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert System(tmp_path).image() == System(tmp_path / "missing").image() == ImageDescription()

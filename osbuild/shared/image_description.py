"""`image.json` in an image: its name, version, boot flow and limits. The build writes it, the agent reads it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from osbuild.shared.json_text import parse_json
from osbuild.shared.records import parse_record, record_to_json

DESCRIPTION_FILE = "usr/lib/edge-osbuild/image.json"


@dataclass(frozen=True, kw_only=True)
class ImageKubernetes:
    """The Kubernetes of an image. `role` is `server`, `agent` or `none`; with `none` there is no distribution."""

    distribution: str | None = None
    role: str | None = None
    version: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HealthLimits:
    """`deadline` is the uptime in seconds at which an unhealthy boot has failed."""

    deadline: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UpdateLimits:
    """The block `update` of the profile: seconds, a number of snapshots, and their total size in bytes."""

    deadline: float | None = None
    drain_deadline: float | None = None
    snapshots: int | None = None
    snapshot_space: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SeedRule:
    """`media` says when a medium may configure the node."""

    media: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImageDescription:
    """The identity and limits of the running image. A build writes every key; a missing key is None."""

    name: str | None = None
    version: str | None = None
    architecture: str | None = None
    board: str | None = None
    boot: str | None = None
    kubernetes: ImageKubernetes = ImageKubernetes()
    health: HealthLimits = HealthLimits()
    update: UpdateLimits = UpdateLimits()
    seed: SeedRule = SeedRule()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "ImageDescription":
        """The description in JSON. Raises `ValueError`."""
        return parse_record(cls, parse_json(text))

    def to_text(self) -> str:
        """The contents of `image.json`."""
        return json.dumps(record_to_json(self), indent=2, sort_keys=True) + "\n"

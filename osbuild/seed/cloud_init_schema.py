"""Checks a seed against cloud-init's own JSON Schema, that of the release that runs on the device.

network-config is not among it: netplan reads that on the device, and its format has more than cloud-init's schema.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import yaml

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.debian import PackageArchive, stored_path
from osbuild.seed.cloud_config import to_json_value
from osbuild.shared.errors import Error

FOLDER = Path("usr/lib/python3/dist-packages/cloudinit/config/schemas")
CHECKED = {"user-data": "schema-cloud-config-v1.json"}


def find_schemas(cache: Cache) -> Path:
    """The folder of schemas out of the suite's cloud-init package, which is downloaded once."""

    def make(path: Path) -> None:
        archive = PackageArchive(cache, Architecture.native())
        archive.update_index()
        debs = [deb for deb in archive.resolve_packages(["cloud-init"]) if deb.name == "cloud-init"]
        archive.download_packages(debs)
        scratch = path.with_name("cloud-init")
        run_command(["dpkg-deb", "--extract", stored_path(cache, debs[0]), scratch])
        (scratch / FOLDER).rename(path)

    return cache.get_or_make("cloud-init-schemas", SUITE, make)


def validate_seed(files: Mapping[str, str], folder: Path) -> None:
    """Raise `Error` for the first thing in user-data that the schema in `folder` does not allow."""
    for name, schema in CHECKED.items():
        validator = jsonschema.Draft7Validator(json.loads((folder / schema).read_text()))
        problem = jsonschema.exceptions.best_match(validator.iter_errors(to_json_value(yaml.safe_load(files[name]))))
        if problem is not None:
            # Only the place: the value and the message may hold a secret.
            raise Error(
                f"cloud-init does not take this: the rule `{problem.validator}` is broken",
                where=f"{name}, {problem.json_path}",
                hint="check what the profile says there; if it is right, report this as a bug of the templates",
            )

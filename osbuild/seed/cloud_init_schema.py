"""Checks a seed against the JSON Schema of the cloud-init version on the device.

network-config is not checked: netplan reads it on the device and supports more than cloud-init's schema allows.
"""

from collections.abc import Mapping
from pathlib import Path

import jsonschema
import yaml

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.debian import PackageArchive, stored_path
from osbuild.seed.cloud_config import load_validator, to_json_value
from osbuild.shared.errors import Error
from osbuild.shared.seed import document
from osbuild.shared.seed.files import LIMIT
from osbuild.shared.seed.refused import SeedRefused

FOLDER = Path("usr/lib/python3/dist-packages/cloudinit/config/schemas")
CHECKED = {"user-data": "schema-cloud-config-v1.json"}


def find_schemas(cache: Cache) -> Path:
    """Return the folder of schemas from the suite's cloud-init package, which is downloaded once. Raises `Error`."""

    def make(path: Path) -> None:
        archive = PackageArchive(cache, Architecture.native())
        archive.update_index()
        debs = [deb for deb in archive.resolve_packages(["cloud-init"]) if deb.name == "cloud-init"]
        archive.download_packages(debs)
        scratch = path.with_name("cloud-init")
        run_command(["dpkg-deb", "--extract", stored_path(cache, debs[0]), scratch])
        (scratch / FOLDER).rename(path)

    return cache.get_or_make("cloud-init-schemas", SUITE, make)


def check_limits(files: Mapping[str, str]) -> None:
    """Raise `Error` for a seed that a node refuses because it is too large."""
    for name, text in files.items():
        try:
            if len(text.encode()) > LIMIT:
                raise SeedRefused(f"{name} is larger than {LIMIT} bytes")
            document.load_yaml(text, name)
        except SeedRefused as problem:
            hint = "shorten the profile's lists, or create the entries on the node with a program"
            raise Error(f"a node would refuse this seed: {problem}", hint=hint) from problem


def validate_seed(files: Mapping[str, str], folder: Path) -> None:
    """Raise `Error` for a value in user-data that the schema in `folder` does not allow, or for a seed too large."""
    check_limits(files)
    for name, schema in CHECKED.items():
        errors = load_validator(folder / schema).iter_errors(to_json_value(yaml.safe_load(files[name])))
        problem = jsonschema.exceptions.best_match(errors)
        if problem is not None:
            # Only the path and the rule are printed: value and message may contain a secret.
            raise Error(
                f"cloud-init does not accept this: it violates the rule `{problem.validator}`",
                where=f"{name}, {problem.json_path}",
                hint="check this value in the profile; if it is right, report a bug of the templates",
            )

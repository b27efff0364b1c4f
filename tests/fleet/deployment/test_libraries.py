"""The libraries in the container image of the update server."""

import re
import tomllib

from osbuild.fleet.deployment.libraries import SERVER
from tests.support.checkout import PROJECT

# What only builds and tests of images need.
OTHERS = {"diskimage-builder", "jsonschema", "pip", "pycdlib", "pyelftools", "qemu.qmp", "zstandard"}


def test_each_dependency_is_in_the_image_or_only_for_builds() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]
    names = {re.split(r"[\[>=<~! ]", requirement)[0] for requirement in required}
    assert names == OTHERS | {name.partition("[")[0] for name in SERVER}, "add a new dependency to SERVER or to OTHERS"

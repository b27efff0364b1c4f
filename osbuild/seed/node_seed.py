"""The seeds of nodes, from a profile with settings of the command line."""

from collections.abc import Sequence
from pathlib import Path

from osbuild.config import load as loading
from osbuild.config import overrides as setting
from osbuild.host import log
from osbuild.host.cache import Cache
from osbuild.seed import cloud_config
from osbuild.seed.cloud_init_schema import CHECKED, find_schemas, validate_seed
from osbuild.seed.render import RenderedSeed, render_seed


def make_node_seeds(
    profile: str, nodes: Sequence[str], settings: Sequence[str], user_file: Path | None = None
) -> list[RenderedSeed]:
    """The checked seed of each of `nodes`: from `profile` with `settings` (`KEY=VALUE`), merged with a cloud-config.

    Raises `Error` or `UsageError`.
    """
    loaded = setting.load_with_settings(loading.find_profile(profile), settings)
    schemas = find_schemas(Cache())
    user_data = cloud_config.read_user_data(user_file) if user_file else None
    if user_data is not None:
        cloud_config.check_schema(user_data, schemas / CHECKED["user-data"])
    seeds = []
    for node in nodes:
        seed = render_seed(loaded.profile, node, folder=loaded.folder, user_data=user_data)
        validate_seed(seed.files, schemas)
        seeds.append(seed)
    for warning in dict.fromkeys(warning for seed in seeds for warning in seed.warnings()):
        log.warn(warning)
    return seeds

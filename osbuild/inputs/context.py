"""How a build gets its inputs: what the user said about caches and the network, apart from what is built."""

from dataclasses import dataclass
from pathlib import Path

from osbuild.host.cache import Cache


@dataclass(frozen=True)
class BuildContext:
    """`downloads` is a folder that is searched before the network (`--from`); `locked` forbids a new lock."""

    cache: Cache
    downloads: Path | None = None
    locked: bool = False

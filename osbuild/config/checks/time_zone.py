"""Checks time zones: those of Debian's tzdata, and of tzdata-legacy for old names."""

from functools import cache
from pathlib import Path

from osbuild.config.document import quote_text
from osbuild.config.scalars import find_nearest
from osbuild.shared.errors import Error

LEGACY = "tzdata-legacy"
LIST = Path(__file__).with_name("zones.txt")


@cache
def list_zones() -> dict[str, str]:
    """Every zone -> its name in tzdata, which is the same for all but those of tzdata-legacy."""
    lines = [line.split() for line in LIST.read_text().splitlines() if not line.startswith("#")]
    return {names[0]: names[-1] for names in lines}


def check_zone(zone: str, packages: tuple[str, ...], where: str) -> None:
    """Raise `Error` for a time zone that an image with `packages` does not have."""
    known = list_zones()
    modern = known.get(zone)
    if modern == zone or (modern is not None and LEGACY in packages):
        return
    if modern is not None:
        message = f"found the time zone {quote_text(zone)}, an old name that Debian's tzdata does not have"
        raise Error(message, where=where, hint=f"write `{modern}`, or add `packages+: [{LEGACY}]` to the image")
    suggestion = find_nearest(zone, [name for name, same in known.items() if name == same])
    hint = f"did you mean `{suggestion}`?" if suggestion else "write a name such as `Europe/Berlin`"
    raise Error(f"found the time zone {quote_text(zone)}, which the tz database does not have", where=where, hint=hint)

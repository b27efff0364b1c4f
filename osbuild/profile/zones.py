"""Time zones that the image has: those of Debian's tzdata, and with it tzdata-legacy for the old names."""

from functools import cache
from pathlib import Path

from osbuild.errors import Error
from osbuild.profile.document import quoted
from osbuild.profile.scalars import nearest

LEGACY = "tzdata-legacy"
LIST = Path(__file__).with_name("zones.txt")


@cache
def zones() -> dict[str, str]:
    """Every zone -> its name in tzdata, which is the same for all but those of tzdata-legacy."""
    lines = [line.split() for line in LIST.read_text().splitlines() if not line.startswith("#")]
    return {words[0]: words[-1] for words in lines}


def check(zone: str, packages: tuple[str, ...], where: str) -> None:
    """Raise `Error` for a time zone that an image with `packages` does not have."""
    known = zones()
    modern = known.get(zone)
    if modern == zone or (modern is not None and LEGACY in packages):
        return
    if modern is not None:
        message = f"found the time zone {quoted(zone)}, an old name that Debian's tzdata does not have"
        raise Error(message, where=where, hint=f"write `{modern}`, or add `packages+: [{LEGACY}]` to the image")
    near = nearest(zone, [name for name, same in known.items() if name == same])
    hint = f"did you mean `{near}`?" if near else "write a name such as `Europe/Berlin`"
    raise Error(f"found the time zone {quoted(zone)}, which the tz database does not have", where=where, hint=hint)

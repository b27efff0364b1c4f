"""The chart of versions over time: areas on top of each other, as high as there are devices."""

from collections.abc import Sequence
from dataclasses import dataclass

from osbuild.fleet.page.version_history import OTHERS, VersionMoment

WIDTH, HEIGHT = 600.0, 160.0
MOST_AREAS = 8
MOST_ROWS = 12  # of the table


@dataclass(frozen=True)
class VersionArea:
    """One version. `path` is the shape of its area (SVG 2, section 9)."""

    version: str
    path: str


@dataclass(frozen=True)
class VersionChart:
    """Areas from the bottom to the top, the most devices at one time, and the same as the rows of a table."""

    areas: tuple[VersionArea, ...]
    highest: int
    begin: int
    end: int
    rows: tuple[tuple[int, tuple[int, ...]], ...]


def draw_versions(moments: Sequence[VersionMoment], order: Sequence[str]) -> VersionChart | None:
    """Return the chart of versions; None if there are not two moments. The versions in `order` come first."""
    if len(moments) < 2 or moments[0].time == moments[-1].time:
        return None
    versions = choose_versions(moments, order)
    columns = [count_devices(moment, versions) for moment in moments]
    highest = max(1, *(sum(column) for column in columns))
    begin, end = moments[0].time, moments[-1].time
    places = [round(WIDTH * (moment.time - begin) / (end - begin), 1) for moment in moments]
    heights = [[0.0] * len(moments)]
    for index in range(len(versions)):
        heights.append([below + column[index] for below, column in zip(heights[-1], columns, strict=True)])
    scaled = [[round(HEIGHT * (1 - height / highest), 1) for height in line] for line in heights]
    areas = []
    for index, version in enumerate(versions):
        upper = [f"{x} {y}" for x, y in zip(places, scaled[index + 1], strict=True)]
        lower = [f"{x} {y}" for x, y in zip(places, scaled[index], strict=True)]
        areas.append(VersionArea(version, f"M{'L'.join([*upper, *reversed(lower)])}Z"))
    step = -(-len(moments) // MOST_ROWS)
    chosen = list(zip(moments, columns, strict=True))[::-1][::step][::-1]
    rows = tuple((moment.time, column) for moment, column in chosen)
    return VersionChart(tuple(areas), highest, begin, end, rows)


def choose_versions(moments: Sequence[VersionMoment], order: Sequence[str]) -> list[str]:
    """Return the versions with an area of their own, and at last the one of all others if there are any."""
    totals: dict[str, int] = {}
    for moment in moments:
        for version, count in moment.devices.items():
            totals[version] = totals.get(version, 0) + count
    frequent = sorted(totals, key=lambda version: -totals[version])
    named = [version for version in order if version in totals]
    named += [version for version in frequent if version not in named and version != OTHERS]
    if len(named) <= MOST_AREAS and OTHERS not in totals:
        return named
    return [*named[: MOST_AREAS - 1], OTHERS]


def count_devices(moment: VersionMoment, versions: Sequence[str]) -> tuple[int, ...]:
    """Return how many devices ran each of these versions. If the last one is `OTHERS`, it stands for all others."""
    counts = [moment.devices.get(version, 0) for version in versions]
    if versions[-1] == OTHERS:
        counts[-1] = sum(moment.devices.values()) - sum(counts[:-1])
    return tuple(counts)

"""The geometry of charts, which templates draw as SVG."""

from collections.abc import Mapping
from dataclasses import dataclass

from osbuild.fleet.page.conditions import DeviceCondition

TOP = 25  # percent: a circle begins at its right, and the first arc at the top


@dataclass(frozen=True)
class Arc:
    """A part of a circle whose circumference is 100. `offset` is its `stroke-dashoffset` (SVG 2, section 13.5.6)."""

    condition: DeviceCondition
    length: float
    offset: float


def make_arcs(counts: Mapping[DeviceCondition, int]) -> tuple[Arc, ...]:
    """Return an arc for each condition that devices have."""
    total = sum(counts.values())
    arcs, begin = [], 0.0
    for condition, count in counts.items():
        if count:
            length = 100 * count / total
            arcs.append(Arc(condition, round(length, 3), round(TOP - begin, 3)))
            begin += length
    return tuple(arcs)

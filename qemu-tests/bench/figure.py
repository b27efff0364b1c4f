"""Measured figures and their targets."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One value in `unit`. `target` is its upper limit; a figure without target is for comparison only."""

    name: str
    title: str
    value: float
    unit: str
    target: float | None = None

    @property
    def over(self) -> bool:
        """Whether the value exceeds the target."""
        return self.target is not None and self.value > self.target

    @property
    def status(self) -> str:
        """`OVER` or `ok`, for the table; empty without a target."""
        if self.target is None:
            return ""
        return "OVER" if self.over else "ok"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "over": self.over}


@dataclass(frozen=True)
class Measured:
    """The result of one measurement: figures, a text on what exactly they compare, other data for the JSON, notes."""

    figures: Sequence[Figure]
    meaning: str
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return {"meaning": self.meaning, "figures": [figure.to_json() for figure in self.figures], **self.metadata}


def format_value(value: float, unit: str) -> str:
    """Format a value for people: 2 decimals below 10, 1 below 100, then none."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def figures_table(measured: Sequence[Measured]) -> Table:
    """Return a table of all figures with their targets."""
    table = Table(title="make bench")
    for title in ("figure", "measured", "target", ""):
        table.add_column(title, justify="right" if title in ("measured", "target") else "left")
    for number, measurement in enumerate(measured):
        if number:
            table.add_section()
        for figure in measurement.figures:
            target = "" if figure.target is None else f"≤ {figure.target:g} {figure.unit}"
            style = "bold red" if figure.over else "green" if figure.target is not None else None
            table.add_row(
                escape(figure.title), format_value(figure.value, figure.unit), target, figure.status, style=style
            )
    return table

"""Prints lists for people, in columns."""

from collections.abc import Iterable, Iterator, Sequence

import click

from osbuild.shared.quoting import escaped


def align_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Yield the rows as lines with aligned columns; the columns numbered in `right` are aligned right."""
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.rjust(width) if offset in right else text.ljust(width)
            for offset, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield ("  " + "  ".join(cells)).rstrip()


def print_lines(lines: Iterable[str]) -> None:
    """Print to standard output, each of `lines` in one line: line breaks in file names and the like are escaped."""
    click.echo("\n".join(escaped(line) for line in lines))

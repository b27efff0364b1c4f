"""What every list for people is laid out with."""

from collections.abc import Iterable, Iterator, Sequence

import click

from osbuild.shared.quoting import escaped


def align_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Rows in aligned columns, those numbered in `right` to the right."""
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.rjust(width) if offset in right else text.ljust(width)
            for offset, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield ("  " + "  ".join(cells)).rstrip()


def print_lines(lines: Iterable[str]) -> None:
    """Print to standard output, each of `lines` in one line, whatever names of others are in it."""
    click.echo("\n".join(escaped(line) for line in lines))

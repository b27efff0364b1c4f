"""The results of the failure matrix, case by case, for docs/failure-matrix.md."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from osbuild.host import paths

FOLDER = paths.PROJECT / "build/failure-matrix"
PAGE = paths.PROJECT / "docs/failure-matrix.md"


@dataclass
class MatrixCase:
    """One case: `held` is whether it passed, `seconds` the time until the device was healthy again.

    `figures` are counts, `standing` is a `devices.Standing`.
    """

    group: str
    case: str
    held: bool = False
    seconds: float = 0.0
    standing: Any = None
    figures: dict[str, Any] = field(default_factory=dict)
    date: str = ""


@dataclass(frozen=True)
class Ledger:
    """A folder with one file for each case, written by its last run."""

    folder: Path = FOLDER

    @contextmanager
    def entry(self, group: str, case: str) -> Iterator[MatrixCase]:
        """Record the block as a case, which holds if the block raises nothing."""
        entry, begin = MatrixCase(group, case), time.monotonic()
        try:
            yield entry
            entry.held = True
        finally:
            entry.seconds = entry.seconds or round(time.monotonic() - begin, 1)
            self.write_entry(entry)

    def write_entry(self, entry: MatrixCase) -> None:
        """Write the file of a finished case."""
        entry.date = f"{datetime.now(UTC):%Y-%m-%d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{entry.group}-{entry.case}.json"
        path.write_text(json.dumps(asdict(entry), indent=1) + "\n")


TITLES = {
    "update": "an update, a rollback and power cuts, on every board",
    "cluster": "an update to another Kubernetes, and the rollback",
    "loader": "U-Boot and its boot state",
    "watchdog": "a system that hangs",
    "image": "a new image that is broken",
    "connection": "a connection or server that fails",
    "bundle": "a bundle that must not be installed",
    "disk": "a disk that is full or fails",
    "power": "power cuts at random moments",
    "flush": "every flush of a whole update, replayed",
    "torn": "a torn sector",
}
ABOUT = (
    "`make test-all` writes this page. Each case injects one fault. It has held if everything that must be true "
    "afterwards was true. `seconds` is the time until the device was healthy again (emulated, without KVM, some cases "
    "with other guests on the same host). The last columns show what `edge-agent explain` said then; its texts are "
    "those of the date."
)
NOTES = {
    "torn": "The sector is filled with random bytes. Two places are left out, because no update writes them and no "
    "second copy exists: the file in `EFI/BOOT` and the first sector of the first allocation table. The replay covers "
    "writes of several sectors that a power cut tears.",
}


HEAD = "| case | held | seconds | then | why | date |"
Row = Mapping[str, Any]
"""a `MatrixCase` as JSON values"""


def format_row(row: Row) -> str:
    """Return one row of the page."""
    standing = row["standing"] or {}
    then = f"slot {standing['slot']}, {standing['version']}, {standing['state']}" if standing else ""
    figures = ", ".join(f"{value} {name}" for name, value in row["figures"].items())
    why = (standing.get("why") or figures).replace("|", "/")
    held = "yes" if row["held"] else "NO"
    return f"| {row['case']} | {held} | {row['seconds']:.0f} | {then} | {why} | {row['date']} |"


def format_page(rows: Sequence[Row]) -> str:
    """Return the text of docs/failure-matrix.md."""
    dates = sorted({row["date"] for row in rows})
    held = sum(row["held"] for row in rows)
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "never"
    lines = ["# The failure matrix", "", f"{held} of {len(rows)} cases held, {span}.", "", ABOUT, ""]
    for group, title in TITLES.items():
        if group_rows := [row for row in rows if row["group"] == group]:
            lines += [f"## {title[0].upper()}{title[1:]}", ""]
            lines += [NOTES[group], ""] if group in NOTES else []
            lines += [HEAD, "| --- | --- | --- | --- | --- | --- |"]
            lines += [*map(format_row, group_rows), ""]
    return "\n".join(lines)


def read_rows(folder: Path = FOLDER, previous: Sequence[Row] = ()) -> list[Row]:
    """Return the cases in `folder`, and those of `previous` that are not in it, sorted."""
    all_rows = [*previous, *(json.loads(path.read_text()) for path in folder.glob("*.json"))]
    newest = {(row["group"], row["case"]): row for row in all_rows}
    return [newest[key] for key in sorted(newest)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, and beside it what it was made of."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--discard", action="store_true", help="discard the earlier records")
    options = parser.parse_args(arguments)
    record = PAGE.with_suffix(".json")
    previous = json.loads(record.read_text()) if record.exists() and not options.discard else []
    rows = read_rows(previous=previous)
    record.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    PAGE.write_text(format_page(rows))
    print(paths.display_path(PAGE))


if __name__ == "__main__":
    main()

"""The report of a run: JSON for programs, docs/conformance.md for people."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from conformance.specs import SpecResult, Verdict

LATE = "out of time"
INTRODUCTION = """# Conformance

`make conformance` writes this page. It compiles e2e.test and agnhost from the module of Kubernetes itself, and runs its
conformance tests against a node of an image ([how](run.md#conformance-tests)).
"""


@dataclass(frozen=True, kw_only=True)
class ConformanceReport:
    """The results of one run, or of several that continue each other (`runs`).

    `focus` is the expression that chose the tests, `target` what they ran against.
    """

    version: str
    profile: str
    target: str
    focus: str
    date: str
    seconds: int
    runs: int = 1
    results: Sequence[SpecResult]

    def select(self, verdict: Verdict) -> list[SpecResult]:
        """Return the results with a verdict, sorted by name."""
        return sorted((one for one in self.results if one.verdict is verdict), key=lambda one: one.name)

    def to_json(self) -> dict[str, Any]:
        counts = Counter(result.verdict for result in self.results)
        return {**asdict(self), "counts": {verdict: counts[verdict] for verdict in Verdict},
                "results": [asdict(result) for result in sorted(self.results, key=lambda one: one.name)]}  # fmt: skip

    def describe_images(self) -> str:
        """Return the root hashes of the images, with the number of tests that have run against each."""
        counts = Counter(result.image for result in self.results if result.reason != LATE)
        return ", ".join(f"`{image[:8]}…` ({count})" for image, count in counts.most_common())

    def summary(self) -> str:
        """Return the counts and the reasons in a few lines."""
        lines = [", ".join(f"{len(self.select(verdict))} {verdict}" for verdict in Verdict)]
        reasons = Counter(result.reason for result in self.select(Verdict.NOT_RUN))
        lines += [f"  {count} not run: {reason}" for reason, count in reasons.most_common()]
        lines += [f"  FAILED {result.name}: {result.reason.splitlines()[0]}" for result in self.select(Verdict.FAILED)]
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """Return a section of the page."""
        rows = {
            "Kubernetes": self.version, "profile": f"`{self.profile}`",
            "tests": f"{len(self.results)}" + (f", those that match `{self.focus}`" if self.focus else ""),
            "date": f"{self.date}, {self.seconds // 60} min" + (f" in {self.runs} runs" if self.runs > 1 else ""),
            "images (root hash)": self.describe_images(),
            **{str(verdict): f"**{len(self.select(verdict))}**" for verdict in Verdict},
        }  # fmt: skip
        parts = [f"## Against {self.target}\n", table(("", ""), [*rows.items()])]
        if failed := self.select(Verdict.FAILED):
            rows_failed = [(f"`{one.name}`", f"`{cell(one.reason)}`") for one in failed]
            parts += ["### Failed\n", table(("test", "why"), rows_failed)]
        reasons: dict[str, list[SpecResult]] = {}
        for result in self.select(Verdict.NOT_RUN):
            reasons.setdefault(result.reason, []).append(result)
        if reasons:
            parts.append("### Not run\n\nEach reason is what the test or the node said when the test was tried.\n")
        for reason, results in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
            parts.append(f"**{reason}** ({len(results)}):\n\n" + "".join(f"- `{one.name}`\n" for one in results))
        if passed := self.select(Verdict.PASSED):
            rows_passed = [(f"`{one.name}`", f"{one.seconds:.0f}", str(one.attempts)) for one in passed]
            parts += ["### Passed\n\nA test that failed beside others ran once more, alone.\n",
                      table(("test", "seconds", "attempts"), rows_passed)]  # fmt: skip
        return "\n".join(parts)


def read_report_file(path: Path) -> ConformanceReport | None:
    """Read what `to_json` has written; None if there is nothing that can be read."""
    try:
        content = json.loads(path.read_text())
        results = [SpecResult(**{**entry, "verdict": Verdict(entry["verdict"])}) for entry in content["results"]]
        fields = {name: content[name] for name in content.keys() - {"counts", "results"}}
        return ConformanceReport(**fields, results=results)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def read_earlier(path: Path, target: str) -> ConformanceReport | None:
    """Return the report in a file if it is about the same kind of node, without tests that failed or were not tried."""
    report = read_report_file(path)
    if report is None or report.target != target:
        return None
    tried = [one for one in report.results if one.verdict is not Verdict.FAILED and one.reason != LATE]
    return replace(report, results=tried)


def format_page(paths: Sequence[Path]) -> str:
    """Return docs/conformance.md with the reports in the files that exist."""
    reports = [report for path in paths if (report := read_report_file(path))]
    return "\n".join([INTRODUCTION, *(report.to_markdown() for report in reports)])


def cell(text: str) -> str:
    """Return a text for a cell of a table: its first line, without what has a meaning there."""
    return text.strip().splitlines()[0].replace("|", "\\|").replace("`", "'")[:200] if text.strip() else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())

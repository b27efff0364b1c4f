"""Ginkgo's report on specs (types.Report of github.com/onsi/ginkgo/v2), and what a spec's result means here."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

REGISTRY = "localhost/edge-conformance"
"""what stands before the name of each container image of the tests (KUBE_TEST_REPO_LIST)"""
# The message of the test that only says how many nodes there are, and those of tests that skip themselves.
NODES = re.compile(r"requires at least (?:two|2) (?:ready )?nodes|Requires at least 2 nodes|at least two nodes", re.I)
PULL_FAILED = re.compile(r'(?:Failed to pull image|Back-off pulling image) \\?"([^"\\]+)\\?"')


class Verdict(StrEnum):
    """What a test has shown about the node."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class SpecReport:
    """One spec in a report of Ginkgo. `state` is Ginkgo's; `output` is what the test has printed."""

    name: str
    state: str
    message: str
    seconds: float
    output: str
    serial: bool


@dataclass(frozen=True, kw_only=True)
class SpecResult:
    """The result of one conformance test. `reason` says why it failed or was not run, `attempts` counts its runs.

    `image` is the root hash of the image that the test ran against.
    """

    name: str
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    attempts: int = 1
    image: str = ""


def parse_report(text: str) -> list[SpecReport]:
    """Parse Ginkgo's JSON report. Raises `ValueError`."""
    try:
        return [_parse_spec(spec) for suite in json.loads(text) for spec in suite["SpecReports"] or ()
                if spec["LeafNodeType"] == "It"]  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is not a report of Ginkgo: {error!r}") from error


def _parse_spec(spec: dict[str, Any]) -> SpecReport:
    failure = spec.get("Failure") or {}
    name = " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]])
    return SpecReport(
        name=name,
        state=spec["State"],
        message=failure.get("Message", ""),
        seconds=spec["RunTime"] / 1e9,
        output=spec.get("CapturedGinkgoWriterOutput", "") + spec.get("CapturedStdOutErr", ""),
        serial="[Serial]" in name,  # the framework adds it for Ginkgo's decorator
    )


def read_report(path: Path) -> list[SpecReport]:
    """Read a report of Ginkgo; without a file it is empty. Raises `ValueError`."""
    return parse_report(path.read_text()) if path.exists() else []


def missing_image(output: str, available: Sequence[str]) -> str | None:
    """Return the first container image that the node could not pull, as the output of a test says."""
    return next((name for name in PULL_FAILED.findall(output) if name not in available), None)


def judge_spec(spec: SpecReport, available: Sequence[str], stuck: str | None = None) -> SpecResult | None:
    """Return the result of a spec that has run; None if it did not run.

    `available` are the container images of the node, `stuck` is the one for which the test was interrupted.
    """
    if spec.state == "passed":
        return SpecResult(name=spec.name, verdict=Verdict.PASSED, seconds=spec.seconds)
    if spec.state == "pending" or (spec.state == "skipped" and not spec.message):
        return None
    image = (stuck if spec.state == "interrupted" else None) or missing_image(spec.output, available)
    verdict, reason = Verdict.FAILED, spec.message.strip() or spec.state
    if NODES.search(spec.message):
        verdict, reason = Verdict.NOT_RUN, "needs two nodes"
    elif image:
        verdict, reason = Verdict.NOT_RUN, f"needs the container image {short_image(image)}"
    elif spec.state == "skipped":
        verdict, reason = Verdict.NOT_RUN, f"skips itself: {first_line(spec.message)}"
    return SpecResult(name=spec.name, verdict=verdict, reason=reason, seconds=spec.seconds)


def short_image(name: str) -> str:
    """Return the name of an image without the registry of the tests."""
    return name.removeprefix(f"{REGISTRY}/")


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def focus_expression(names: Iterable[str]) -> str:
    """Return a regular expression of Go for `--ginkgo.focus` that matches exactly these specs."""
    # Ginkgo matches it against the suite's description, a space and the name of the spec.
    return f"^Kubernetes e2e suite (?:{'|'.join(map(quote_go, names))})$"


def quote_go(text: str) -> str:
    """Like regexp.QuoteMeta of Go, which refuses some escapes of `re.escape`, such as that of a space."""
    return re.sub(r"[\\.+*?()|\[\]{}^$]", lambda match: "\\" + match[0], text)

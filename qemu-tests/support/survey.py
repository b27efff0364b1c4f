"""Every state that a power cut could leave of a disk, checked: partition table, boot files, roots, file systems."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from osbuild.formats import gpt
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error
from support import filesystems
from support.boot_candidates import Candidate, Loader, Version
from support.filesystems import DataCheck, FatCheck
from support.replay import Disk, DiskState, Piece, states
from support.write_log import WriteLog

MOST = 50  # findings that are kept with their words


@dataclass(frozen=True)
class SurveyPlan:
    """What is checked. `variants` and `seed` are those of `replay.states`.

    `documents` are JSON files of the data file system that must be whole or missing. `marks` are names of moments, by
    the number of entries that the log had then. `keep` is how many states, chosen by the seed, are kept as disk images
    to be booted.
    """

    versions: Sequence[Version]
    kind: str = "uefi"
    variants: int = 4
    seed: int = 0
    documents: Sequence[str] = ()
    marks: Mapping[str, int] = field(default_factory=dict)
    keep: int = 0
    every_write: bool = False


@dataclass
class Survey:
    """What was found. `chosen` counts states by what would boot, `phases` by the last mark before them.

    `kept` are images of states: path -> which state it is. `tools` counts runs of programs.
    """

    entries: int = 0
    flushes: int = 0
    states: int = 0
    bad: int = 0
    findings: list[str] = field(default_factory=list)
    chosen: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    tolerated: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    kept: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        chosen = ", ".join(f"{count} × {name}" for name, count in self.chosen.most_common())
        lines = [
            f"{self.states} states of {self.flushes} flushes in {self.entries} requests, {self.bad} bad; "
            f"{self.seconds:.1f} s, {1000 * self.seconds / max(1, self.states):.1f} ms each",
            f"boots: {chosen}",
        ]
        return "\n".join([*lines, *self.findings])

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, default=dict) + "\n")


class Checks:
    """The checks of one disk, each done again only where what it reads has changed."""

    def __init__(self, disk: Disk, tools: ToolsTree | None, plan: SurveyPlan, report: Survey) -> None:
        self.disk, self.tools, self.plan, self.report = disk, tools, plan, report
        self.loader = Loader(disk, plan.versions, kind=plan.kind)
        self._protected = self.loader.protected()
        self._known: dict[tuple[str, tuple[int, ...]], object] = {}
        self._verified: set[tuple[str, str]] = set()

    def close(self) -> None:
        self.loader.close()

    def problems(self) -> list[str]:
        """Whatever is wrong with the disk as it is now."""
        found = [*self._table(), *self._boot()]
        if self.tools:
            found += self._esp(self.tools)
            if self.disk.has("data"):
                checked = self._data(self.tools)
                found += [checked.problem] if checked.problem else []
        return found

    def _table(self) -> list[str]:
        gaps = [piece for piece in self.disk.pieces if piece.name.startswith("gap-")]
        key = self._key("table", *gaps)
        if key not in self._known:
            self._known[key] = None
            try:
                gpt.read_table_from(cast(BinaryIO, self.disk.open()), "the disk")
            except Error as error:
                self._known[key] = f"partition table: {error.message}"
        problem = self._known[key]
        return [str(problem)] if problem else []

    def _boot(self) -> list[str]:
        try:
            order = self.loader.order()
        except Error as error:
            return [f"boot partition: {error.message}"]
        usable = [each for each in order if each.left != 0]
        found = [f"would be booted: {each}" for each in usable if each.problem]
        whole = [each for each in usable or order if not each.problem]
        if not whole:
            found.append("nothing whole to boot")
        else:
            first = (usable or order)[0]
            self.report.chosen[f"{first.version} in slot {first.slot}"] += 1
            self._verify(first)
        return found

    def _verify(self, candidate: Candidate) -> None:
        """By veritysetup too, once for each root that is found where it belongs."""
        if not self.tools or candidate.problem or not candidate.slot or not candidate.version:
            return
        if (candidate.slot, candidate.version) not in self._verified:
            self._verified.add((candidate.slot, candidate.version))
            version = next(each for each in self.plan.versions if each.name == candidate.version)
            root, tree = (self.disk.piece(f"root-{candidate.slot}{kind}").path for kind in ("", "-verity"))
            self.report.tools["veritysetup"] += 1
            filesystems.verify_root(self.tools, root, tree, version.root_hash)

    def _esp(self, tools: ToolsTree) -> list[str]:
        esp = self.disk.piece("esp")
        key = self._key("esp", esp)
        if key not in self._known:
            self.report.tools["fsck.fat"] += 1
            checked = filesystems.check_fat(tools, esp.path)
            self._known[key] = [*checked.problems, *self._files(checked)]
        return [f"boot partition: {problem}" for problem in cast(list[str], self._known[key])]

    def _files(self, checked: FatCheck) -> list[str]:
        """Damage to files that matter: entries are judged by what they hold, the rest must be as it was."""
        found = []
        now = self.loader.protected()
        for path, digest in self._protected.items():
            if now.get(path) != digest:
                found.append(f"{path} is {'missing' if path not in now else 'changed'}")
        for path in checked.files:
            if path.removeprefix("/") in self._protected:
                found.append(f"{path} is damaged")
            else:
                self.report.tolerated[path] += 1
        return found

    def _data(self, tools: ToolsTree) -> DataCheck:
        data = self.disk.piece("data")
        key = self._key("data", data)
        if key not in self._known:
            self.report.tools["e2fsck"] += 1
            self._known[key] = filesystems.check_data(tools, data.path, self.plan.documents)
        return cast(DataCheck, self._known[key])

    def _key(self, name: str, *pieces: Piece) -> tuple[str, tuple[int, ...]]:
        return name, tuple(self.disk.stamp(piece) for piece in pieces)


def survey(log: Path, image: Path, folder: Path, plan: SurveyPlan, tools: ToolsTree | None) -> Survey:
    """Replay `log` onto a copy of `image`, the disk as it was when the log began, and check every state.

    The copy and the kept states are in `folder`; the copy is left as the disk was at the log's end. `tools` are
    `filesystems.programs`; without them file systems are only checked as far as boot files are read.
    """
    begin = time.monotonic()
    report = Survey()
    with WriteLog(log) as found, Disk(image, folder / "disk") as disk:
        epochs = list(found.requests() if plan.every_write else found.epochs())
        report.entries, report.flushes = found.count, sum(epoch.flushed for epoch in epochs)
        wanted = sample(len(epochs), plan)
        checks = Checks(disk, tools, plan, report)
        try:
            for state in states(found, disk, variants=plan.variants, seed=plan.seed, epochs=iter(epochs)):
                look(checks, state, plan, report)
                # Where there is nothing to be torn, the flush itself is kept.
                if wanted.get(state.epoch.number) or (state.epoch.number in wanted and not state.variant):
                    del wanted[state.epoch.number]
                    target = disk.assemble(folder / f"state-{state.epoch.number}-{state.variant}.img")
                    report.kept[str(target)] = str(state)
        finally:
            checks.close()
    report.seconds = round(time.monotonic() - begin, 2)
    return report


def look(checks: Checks, state: DiskState, plan: SurveyPlan, report: Survey) -> None:
    """Check one state and enter it in the report."""
    report.states += 1
    report.phases[phase(state, plan)] += 1
    problems = checks.problems()
    report.bad += bool(problems)
    for problem in problems[: MOST - len(report.findings)]:
        report.findings.append(f"{phase(state, plan)}, {state}: {problem}")


def phase(state: DiskState, plan: SurveyPlan) -> str:
    """The last mark that the state comes after."""
    passed = [name for name, entry in sorted(plan.marks.items(), key=lambda mark: mark[1]) if entry <= state.epoch.end]
    return passed[-1] if passed else "start"


def sample(count: int, plan: SurveyPlan) -> dict[int, int]:
    """Which states are kept: number of the epoch -> variant. The last flush is always one of them."""
    if not plan.keep or not count:
        return {}
    step = count / plan.keep
    chosen = {min(count - 1, int((number + 1) * step) - 1) for number in range(plan.keep)}
    return {epoch: (number % 2) * (plan.variants > 0) for number, epoch in enumerate(sorted(chosen, reverse=True))}

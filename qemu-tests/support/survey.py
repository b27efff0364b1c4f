"""Checks every state that a power cut could leave on a disk: partition table, boot images, roots, file systems."""

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
from support.boot_candidates import BootLoaderModel, Candidate, KnownVersion
from support.filesystems import DataCheck, FatCheck
from support.replay import Disk, DiskState, Piece, replay_states
from support.write_log import WriteLog

MOST_FINDINGS = 50  # findings that are kept with their text


@dataclass(frozen=True)
class SurveyPlan:
    """The options of a survey. `variants` and `seed` are those of `replay.replay_states`.

    `documents` are JSON files of the data file system that must be intact or missing. `marks` maps the name of a moment
    to the number of entries that the log had then. `keep` is the number of states that are kept as disk images, to be
    booted.
    """

    versions: Sequence[KnownVersion]
    kind: str = "uefi"
    variants: int = 4
    seed: int = 0
    documents: Sequence[str] = ()
    marks: Mapping[str, int] = field(default_factory=dict)
    keep: int = 0
    every_write: bool = False


@dataclass
class Survey:
    """The results. `chosen` counts states by the version that would boot, `phases` by the last mark before them.

    `kept` maps paths of kept images to their states. `tools` counts runs of programs.
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
    """The checks of one disk. A check is repeated only if the data that it reads has changed."""

    def __init__(self, disk: Disk, tools: ToolsTree | None, plan: SurveyPlan, report: Survey) -> None:
        self.disk, self.tools, self.plan, self.report = disk, tools, plan, report
        self.loader = BootLoaderModel(disk, plan.versions, kind=plan.kind)
        self._protected = self.loader.protected_files()
        self._known: dict[tuple[str, tuple[int, ...]], object] = {}
        self._verified: set[tuple[str, str]] = set()

    def close(self) -> None:
        self.loader.close()

    def problems(self) -> list[str]:
        """Return all problems of the current state of the disk."""
        problems = [*self._table(), *self._boot()]
        if self.tools:
            problems += self._esp(self.tools)
            if self.disk.has_piece("data"):
                data_check = self._data(self.tools)
                problems += [data_check.problem] if data_check.problem else []
        return problems

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
            order = self.loader.boot_order()
        except Error as error:
            return [f"boot partition: {error.message}"]
        usable = [candidate for candidate in order if candidate.left != 0]
        problems = [f"would be booted: {candidate}" for candidate in usable if candidate.problem]
        bootable = [candidate for candidate in usable or order if not candidate.problem]
        if not bootable:
            problems.append("nothing whole to boot")
        else:
            first = (usable or order)[0]
            self.report.chosen[f"{first.version} in slot {first.slot}"] += 1
            self._verify(first)
        return problems

    def _verify(self, candidate: Candidate) -> None:
        """Verify the root of a candidate with veritysetup, once for each slot and version."""
        if not self.tools or candidate.problem or not candidate.slot or not candidate.version:
            return
        if (candidate.slot, candidate.version) not in self._verified:
            self._verified.add((candidate.slot, candidate.version))
            version = next(known for known in self.plan.versions if known.name == candidate.version)
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
        """Return damage to protected files, which must be unchanged. Boot entries are checked by their contents."""
        problems = []
        current = self.loader.protected_files()
        for path, digest in self._protected.items():
            if current.get(path) != digest:
                problems.append(f"{path} is {'missing' if path not in current else 'changed'}")
        for path in checked.files:
            if path.removeprefix("/") in self._protected:
                problems.append(f"{path} is damaged")
            else:
                self.report.tolerated[path] += 1
        return problems

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
    """Replay `log` on a copy of `image`, the disk at the beginning of the log, and check every state.

    The copy, with the state at the end of the log, and the kept states are in `folder`. `tools` are
    `filesystems.filesystem_tools`; without them, file systems are checked only by reading the boot images.
    """
    begin = time.monotonic()
    report = Survey()
    with WriteLog(log) as write_log, Disk(image, folder / "disk") as disk:
        epochs = list(write_log.requests() if plan.every_write else write_log.epochs())
        report.entries, report.flushes = write_log.count, sum(epoch.flushed for epoch in epochs)
        kept_states = choose_kept_states(len(epochs), plan)
        checks = Checks(disk, tools, plan, report)
        try:
            for state in replay_states(write_log, disk, variants=plan.variants, seed=plan.seed, epochs=iter(epochs)):
                check_state(checks, state, plan, report)
                # If the epoch has no partial states, the state of the flush itself is kept.
                if kept_states.get(state.epoch.number) or (state.epoch.number in kept_states and not state.variant):
                    del kept_states[state.epoch.number]
                    target = disk.assemble(folder / f"state-{state.epoch.number}-{state.variant}.img")
                    report.kept[str(target)] = str(state)
        finally:
            checks.close()
    report.seconds = round(time.monotonic() - begin, 2)
    return report


def check_state(checks: Checks, state: DiskState, plan: SurveyPlan, report: Survey) -> None:
    """Check one state and add it to the report."""
    report.states += 1
    report.phases[phase(state, plan)] += 1
    problems = checks.problems()
    report.bad += bool(problems)
    for problem in problems[: MOST_FINDINGS - len(report.findings)]:
        report.findings.append(f"{phase(state, plan)}, {state}: {problem}")


def phase(state: DiskState, plan: SurveyPlan) -> str:
    """Return the name of the last mark before the state."""
    passed = [name for name, entry in sorted(plan.marks.items(), key=lambda mark: mark[1]) if entry <= state.epoch.end]
    return passed[-1] if passed else "start"


def choose_kept_states(count: int, plan: SurveyPlan) -> dict[int, int]:
    """Choose the states to keep: number of the epoch -> variant. The last flush is always kept."""
    if not plan.keep or not count:
        return {}
    step = count / plan.keep
    chosen = {min(count - 1, int((number + 1) * step) - 1) for number in range(plan.keep)}
    return {epoch: (number % 2) * (plan.variants > 0) for number, epoch in enumerate(sorted(chosen, reverse=True))}

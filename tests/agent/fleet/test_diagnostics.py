"""The archive of diagnostics: real programs, no secrets, and a limited size."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from osbuild.agent.fleet import diagnostics
from osbuild.agent.fleet.diagnostics import collect_diagnostics, read_program
from osbuild.agent.system import System


def unpack(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def test_the_archive_has_what_programs_print_without_secrets(tmp_path: Path) -> None:
    agent = tmp_path / "etc/edge-osbuild/agent.json"
    agent.parent.mkdir(parents=True)
    agent.write_text('{"enrolment": "planted-token"}')
    programs = {"one.txt": ("echo", "ok planted-token"), "two.txt": ("sh", "-c", "echo why >&2; exit 3"),
                "three.txt": ("no-such-program",)}  # fmt: skip
    files = unpack(collect_diagnostics(System(tmp_path), programs))
    assert files["diagnostics/one.txt"] == "ok …\n"
    assert files["diagnostics/two.txt"] == "why\n\nsh has ended with status 3\n"
    assert files["diagnostics/three.txt"] == "no-such-program cannot be started: No such file or directory\n"
    assert files["diagnostics/cluster.txt"] == "this node has no Kubernetes\n"
    assert {"diagnostics/journal.txt", "diagnostics/journal-before.txt"} <= files.keys()


def test_a_program_that_prints_without_an_end_or_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_program(["yes"], 1000) == "y\n" * 500
    monkeypatch.setattr(diagnostics, "TIMEOUT", 0.5)
    assert read_program(["sh", "-c", "echo begin; sleep 600 & sleep 600"]) == "begin\n"


def test_a_journal_that_does_not_compress_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal"
    journal.write_text("".join(f"{random.Random(line).randbytes(1000).hex()}\n" for line in range(3072)))
    monkeypatch.setattr(diagnostics, "JOURNAL", ("sh", "-c", f"tac {journal}", "journal"))
    monkeypatch.setattr(diagnostics, "LARGEST_ARCHIVE", 2**20)
    data = collect_diagnostics(System(tmp_path), {})
    assert len(data) <= 2**20
    newest = unpack(data)["diagnostics/journal.txt"]
    assert newest.splitlines()[-1] == random.Random(3071).randbytes(1000).hex(), "the newest lines are kept"
    assert len(newest) > 2**18

"""Updates that somebody has to confirm on the device: the question, and the answer of `edge-agent update confirm`."""

import json
from dataclasses import asdict, dataclass

from osbuild.agent import state_files
from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.files import write_file

QUESTION_FILE = "/run/edge-fleet/question.json"
ANSWER_FILE = "/run/edge-fleet-outcome/answer.json"  # of root
QUESTION = {"action": str, "name": str, "version": str}
ANSWER = {"action": str, "confirmed": bool}


@dataclass(frozen=True)
class ConfirmationQuestion:
    """An update that waits for a confirmation. `action` is its number on the server."""

    action: str
    name: str
    version: str


def ask_question(system: System, question: ConfirmationQuestion) -> None:
    """Store a question for people. Raises `OSError`."""
    if load_question(system) != question:
        write_file(system.path(QUESTION_FILE), json.dumps(asdict(question)).encode() + b"\n", 0o600)
        print(f"{question.name} {question.version} waits for `edge-agent update confirm`", flush=True)


def remove_question(system: System) -> None:
    """Remove the question, which was answered or withdrawn. Raises `OSError`."""
    system.path(QUESTION_FILE).unlink(missing_ok=True)


def load_question(system: System) -> ConfirmationQuestion | None:
    """Return the question; None if there is none."""
    row = state_files.read_object(system, QUESTION_FILE, QUESTION, tuple(QUESTION), links=False)
    return ConfirmationQuestion(*(row[name] for name in QUESTION)) if row else None


def answer_question(system: System, *, confirmed: bool) -> ConfirmationQuestion:
    """Store the answer to the question, and return the question. Raises `Problem` if there is none, and `OSError`."""
    question = load_question(system)
    if question is None:
        raise Problem("no update waits for a confirmation", hint="`edge-agent update status` shows the pending update")
    answer = {"action": question.action, "confirmed": confirmed}
    write_file(system.path(ANSWER_FILE), json.dumps(answer).encode() + b"\n", 0o644)
    return question


def load_answer(system: System, action: str) -> bool | None:
    """Return whether an action was confirmed; None if there is no answer yet."""
    row = state_files.read_object(system, ANSWER_FILE, ANSWER, tuple(ANSWER))
    return bool(row["confirmed"]) if row.get("action") == action else None

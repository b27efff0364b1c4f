"""What people see goes to standard error: nested, timed, and never read as markup."""

import pytest

from osbuild.host import log
from osbuild.shared.errors import Error


def test_steps_are_nested_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    before = len(log.timings())
    with log.step("outer"):
        log.note("a note")
        with log.step("inner"):
            pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["‣ outer", "  a note", "  ‣ inner"]
    assert [(depth, title) for depth, title, _ in log.timings()[before:]] == [(0, "outer"), (1, "inner")]
    outer, inner = (seconds for _, _, seconds in log.timings()[before:])
    assert outer >= inner > 0


def test_a_step_that_fails_is_timed_and_the_next_not_indented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), log.step("fails"):
        raise KeyError
    log.note("after")
    assert capsys.readouterr().err.splitlines() == ["‣ fails", "after"]
    assert log.timings()[-1][2] > 0


@pytest.mark.parametrize("text", ["[/]", "[bold]x", "/tmp/a:b: :smile:", "see [/etc] and [red]", "a" * 500])
def test_messages_are_printed_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with log.step(text):
        log.note(text)
        log.warn(text)
    log.error(Error(text, hint=text))
    assert capsys.readouterr().err.count(text) == 5


def test_names_of_others_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2Jb\rc\x9bd\u202ee\udcff"
    with log.step(name):
        log.note(name)
        log.warn(name)
    log.error(Error(f"first\nsecond {name}", where=f"{name}\nerror: forged", hint=name))
    output = capsys.readouterr().err
    assert all(sign.isprintable() or sign == "\n" for sign in output)
    assert output.count(r"a\x1b[2Jb\rc\x9bd\u202ee\udcff") == 6
    assert "\nsecond " in output and "\nerror: forged" not in output, "only the message may have several lines"


def test_debug_lines_need_verbose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log.debug("hidden")
    monkeypatch.setattr(log, "verbose", True)
    log.debug("shown")
    assert capsys.readouterr().err == "shown\n"


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with log.progress("download", 100) as bar:
        bar.update(bar.task_ids[0], advance=100)
        assert bar.tasks[0].finished
    assert capsys.readouterr() == ("", "")

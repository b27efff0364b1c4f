"""Other programs are started without a shell, and their failures say what to do."""

import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.host import log
from osbuild.host.run import CommandError, run_command, worker_threads
from osbuild.shared.errors import Error


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def test_standard_output_is_returned() -> None:
    assert run_command(python("import sys; print('out'); print('err', file=sys.stderr)")) == "out\n"


@given(word=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20))
def test_no_shell_sees_the_arguments(word: str) -> None:
    assert run_command(["printf", "%s", word]).encode() == word.encode().replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def test_a_failure_carries_command_status_output_and_hint() -> None:
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandError) as caught:
        run_command(python(program, "a b"), hint="do this")
    error = caught.value
    assert (error.returncode, error.hint) == (3, "do this")
    assert error.message.splitlines() == [shlex.join(python(program, "a b")), "  ended with status 3", "out", "err"]


def test_a_long_output_is_cut_to_its_end() -> None:
    with pytest.raises(CommandError) as caught:
        run_command(python("for i in range(100): print(i)\nraise SystemExit(1)"))
    assert caught.value.message.splitlines()[3:] == [str(number) for number in range(70, 100)]
    assert caught.value.output.startswith("0\n")


def test_a_missing_program_points_to_the_doctor() -> None:
    with pytest.raises(Error, match="cannot start no-such-program") as caught:
        run_command(["no-such-program"])
    assert "edge-osbuild doctor" in (caught.value.hint or "")


def test_input_environment_and_folder_are_passed(tmp_path: Path) -> None:
    program = "import os, sys; print(sys.stdin.read(), os.environ.get('NAME'), os.environ.get('HOME'), os.getcwd())"
    assert (
        run_command(python(program), input="in", env={"NAME": "value"}, cwd=tmp_path) == f"in value None {tmp_path}\n"
    )


def test_a_program_cannot_wait_for_the_keyboard() -> None:
    assert run_command(python("import sys; print(repr(sys.stdin.read()))")) == "''\n"


def test_a_log_file_gets_both_streams_and_is_named_in_the_hint(tmp_path: Path) -> None:
    path = tmp_path / "log"
    program = (
        "import sys; print('out', flush=True); print('err', file=sys.stderr, flush=True); sys.exit(int(sys.argv[1]))"
    )
    assert run_command(python(program, "0"), logfile=path) == ""
    with pytest.raises(CommandError) as caught:
        run_command(python(program, "1"), logfile=path)
    assert path.read_text() == "out\nerr\n" * 2
    assert str(path) in (caught.value.hint or "")


def test_output_that_is_not_utf8_is_accepted() -> None:
    assert run_command(python("import sys; sys.stdout.buffer.write(b'\\xff')")) == "\N{REPLACEMENT CHARACTER}"


def test_verbose_shows_commands_ready_to_paste(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "verbose", True)
    run_command(["printf", "%s", "a b"])
    assert "$ printf %s 'a b'" in capsys.readouterr().err


def test_threads_of_a_block_that_fails_end_what_they_run_and_start_nothing_more(tmp_path: Path) -> None:
    between, over = threading.Event(), threading.Event()

    def works() -> None:
        between.set()
        over.wait(10)
        run_command(["touch", tmp_path / "started"])

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_threads() as pool:
        pool.submit(run_command, ["sleep", "30"])
        late = pool.submit(works)
        between.wait(10)
        # It is ended while that one runs nothing, and goes on only then.
        threading.Timer(0.5, over.set).start()
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 10
    assert "touch is not started" in str(late.exception())
    assert not (tmp_path / "started").exists()
    assert run_command(["echo", "elsewhere"]) == "elsewhere\n"


def test_credentials_in_urls_are_not_in_errors_or_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "verbose", True)
    url = "http://me:hidden%2Fword@mirror.example/debian"
    with pytest.raises(CommandError) as caught:
        run_command(python(f"import sys; print('E: {url}', file=sys.stderr); sys.exit(1)", f"deb {url} trixie"))
    messages = caught.value.message + caught.value.output + capsys.readouterr().err
    assert "hidden" not in messages and messages.count("http://…@mirror.example/debian") == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_contained_program_started_ends_with_this_process(number: signal.Signals, tmp_path: Path) -> None:
    mark = f"{time.time_ns()}"
    program = (
        f"from osbuild.host.run import run_contained; run_contained(['sh', '-c', 'setsid sleep 60.{mark} & sleep 61'])"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as command:
        wait_for(lambda: sleeping(mark), there=True)
        command.send_signal(number)
    wait_for(lambda: sleeping(mark), there=False)


def sleeping(mark: str) -> bool:
    """Whether the program that was started at the end runs."""
    word = f"60.{mark}".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = path.read_bytes().split(b"\0")
            if arguments[0] == b"sleep" and word in arguments:
                return True
    return False


def wait_for(state: Callable[[], bool], *, there: bool) -> None:
    for _ in range(100):
        if state() == there:
            return
        time.sleep(0.1)
    raise AssertionError("it never came to that")

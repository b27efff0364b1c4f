"""Programs of the device: their status and output, and what happens if they do not end."""

import pytest

from osbuild.agent.command import CommandNotFinished, run_command


def test_status_output_and_errors_are_returned_and_there_is_no_input() -> None:
    result = run_command(["sh", "-c", "cat; echo $WORD; echo wrong >&2; exit 3"], timeout=30, env={"WORD": "said"})
    assert (result.returncode, result.stdout, result.stderr) == (3, "said\n", "wrong\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [(["/nowhere/program"], "/nowhere/program"), (["sleep", "100"], "sleep.*timed out"), (["/dev/null"], "Permission")],
)
def test_a_program_that_does_not_start_or_end_is_one_exception(command: list[str], message: str) -> None:
    with pytest.raises(CommandNotFinished, match=message):
        run_command(command, timeout=0.2)

"""The serial console's log, and deadlines."""

import socket
import threading
import time
from pathlib import Path

import pytest

from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.qemu.serial import Console, GuestStalled, SerialLine, guess_reason, strip_controls
from osbuild.qemu.terminal import Action, Keyboard
from osbuild.shared.errors import Error


def say(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_a_deadline_runs_down_to_zero_and_no_further() -> None:
    deadline = Deadline(0.05)
    assert 0 < deadline.remaining <= 0.05
    assert not deadline.passed
    begin = time.monotonic()
    deadline.pause(10)
    assert time.monotonic() - begin < 1
    deadline.pause(10)
    assert deadline.remaining == 0
    assert deadline.passed


def test_a_pattern_is_found_as_the_file_grows_even_when_cut_in_two(tmp_path: Path) -> None:
    path = tmp_path / "log"
    console = Console(path)

    def write() -> None:
        for part in (b"boot\r\nlog", b"in: \xc3", b"\xa4\x1b[0", b";1mdo\x1b]0;ti", b"tle\x1b", b"\\ne\x1b[0m\n"):
            time.sleep(0.07)
            say(path, part)

    writer = threading.Thread(target=write)
    writer.start()
    assert console.wait_for(r"^login: (ä)done$", 5)[1] == "ä"
    writer.join()


def test_each_wait_begins_where_the_last_one_matched(tmp_path: Path) -> None:
    path = tmp_path / "log"
    say(path, b"login: login: ")
    console = Console(path)
    console.wait_for("login:", 1)
    console.wait_for("login:", 1)
    with pytest.raises(TimedOut):
        console.wait_for("login:", 0.1)
    say(path, b"old")
    console.skip()
    say(path, b"new")
    assert console.wait_for("old|new", 1)[0] == "new"


def test_colours_and_cursor_movements_are_removed_from_the_text() -> None:
    assert (
        strip_controls("[\x1b[0;32m  OK  \x1b[0m] Reached\r\n\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe")
        == "[  OK  ] Reached\nBdsDxe"
    )
    assert strip_controls("\x1b[!p\x1b]104\x1b\\\x1b[?7hlogin\x1b]0;title\x07: \x1bPdata\x1b\\ok") == "login: ok"


def test_a_time_out_shows_the_last_forty_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    say(path, b"".join(b"line %d\n" % number for number in range(100)))
    with pytest.raises(TimedOut) as caught:
        Console(path).wait_for("never", 0.1)
    assert "'never' was not on the console within 0.1 s" in caught.value.message
    assert "line 60\n" in caught.value.message
    assert "line 59\n" not in caught.value.message
    assert str(path) in (caught.value.hint or "")


def test_a_panic_ends_the_wait_at_once_unless_it_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "log"
    say(path, b"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\n")
    begin = time.monotonic()
    with pytest.raises(Error, match="Attempted to kill init!, while waiting for 'login'") as caught:
        Console(path).wait_for("login", 30)
    assert time.monotonic() - begin < 1
    assert "panicked" in (caught.value.hint or "")
    say(path, b"second boot: login")
    Console(path).wait_for("login", 1, through_panic=True)


def test_a_guest_whose_timer_has_failed_ends_the_wait_but_not_one_that_was_late_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    late = b"[  379.85] rcu: \tPossible timer handling issue on cpu=1 timer-softirq=6\n"
    say(path, 2 * late)
    console = Console(path)
    with pytest.raises(TimedOut):
        console.wait_for("login", 0.1)
    say(path, 2 * late + b"login\n" + 2 * late)
    console.wait_for("login", 1)
    say(path, late)
    with pytest.raises(GuestStalled, match="no timer interrupts any more, while waiting for 'shell'"):
        console.wait_for("shell", 30)


def test_the_end_of_qemu_ends_the_wait_at_once_but_its_last_words_count(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def dead() -> None:
        raise Error("QEMU was killed by signal 9", hint="look there")

    say(path, b"reboot: Power down\n")
    console = Console(path, dead)
    console.wait_for("Power down", 30)
    begin = time.monotonic()
    with pytest.raises(Error, match="signal 9, while waiting for 'login'") as caught:
        console.wait_for("login", 30)
    assert time.monotonic() - begin < 1
    assert caught.value.hint == "look there"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("BdsDxe: No bootable option or device was found.", "firmware"),
        ("device-mapper: verity: 254:2: data block 5 is corrupted", "verity"),
        ("oom-kill:constraint=CONSTRAINT_NONE", "memory"),
        ("You are in emergency mode.", "emergency"),
    ],
)
def test_a_known_way_to_fail_is_named(text: str, word: str) -> None:
    assert word in (guess_reason(f"before\n{text}\nafter") or "")
    assert guess_reason("all is well") is None


def test_the_console_is_always_read_and_no_output_is_lost() -> None:
    guest, host_end = socket.socketpair()
    line = SerialLine(host_end)
    guest.settimeout(5)
    guest.sendall(b"x" * 2**19)  # more than a socket holds: blocks if it is not drained
    seen = bytearray()
    line.send("typed\n")
    assert guest.recv(100) == b"typed\n"
    line.listen(seen.extend)
    guest.sendall(b"end")
    deadline = Deadline(5)
    while not seen.endswith(b"end") and not deadline.passed:
        deadline.pause(0.01)
    assert bytes(seen) == b"x" * 2**19 + b"end"
    guest.close()
    line.close()
    with pytest.raises(Error, match="the machine is off"):
        line.send("x")


def test_the_escape_key_is_for_us_and_all_else_for_the_guest() -> None:
    keyboard = Keyboard()
    assert list(keyboard.feed(b"ls\r\x03")) == [b"ls\r\x03"]
    assert list(keyboard.feed(b"ab\x01xcd\x01a")) == [b"ab", Action.quit, b"cd\x01"]
    assert list(keyboard.feed(b"\x01")) == []
    assert list(keyboard.feed(b"H\x01?q")) == [Action.help, b"q"]

"""Original messages of RAUC 1.13, the kernel and the network, and the reasons that the agent derives from them."""

import json
import re
from pathlib import Path

import pytest

from osbuild.agent.system import System
from osbuild.agent.update import rauc_journal
from osbuild.agent.update.failure import CORRUPT, REASONS, Failure, find_reason
from osbuild.agent.update.install_attempt import StallDetector, find_lost_block
from osbuild.agent.update.kernel_log import KernelMessages
from osbuild.agent.update.nbd_counters import NbdCounters
from osbuild.agent.update.rauc import parse_manifest, rauc_error

GLIB = (
    "rauc-Message: 15:58:15.711: Reading bundle: /b.raucb\nrauc-Message: 15:58:15.713: Verifying bundle signature... \n"
)


def test_every_pattern_has_the_groups_that_its_message_needs() -> None:
    for pattern, reason in REASONS:
        groups = reason.message.count("{")
        assert re.compile(pattern).groups >= groups, pattern


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("signature verification failed: Verify error: certificate revoked",
         "certificate of the bundle's signer is revoked"),
        ("signature verification failed: Verify error: unable to get local issuer certificate",
         "not trusted by this device"),
        ("signature verification failed: Verify error: certificate has expired", "certificate was not valid"),
        ("signature verification failed: Verify error: unsuitable certificate purpose", "signature is not valid"),
        ("Invalid bundle format: Signature size (9909314996845873868) exceeds bundle size",
         "this is not a complete bundle"),
        ("Invalid bundle format: Signature size is 0", "this is not a complete bundle"),
        ("Invalid bundle format: Failed to seek to end of bundle: Error seeking in file: Invalid argument", "bundle"),
        ("No such file: /nope.raucb", "the file does not exist"),
        ("Installation error: Compatible mismatch: Expected 'x-y' but bundle manifest has 'x-z'",
         "the bundle is for x-z, but this device is x-y"),
        ("Version mismatch: Expected at least '1.2.0' but bundle manifest has '1.0.0'",
         "older than the minimum version 1.2.0"),
        ("Version mismatch: Expected at least '1.2.0' but bundle manifest has no version",
         "older than the minimum version 1.2.0"),
        ("Failed to stream bundle http://h/b: failed to configure streaming: range requests not supported by server",
         "cannot send parts"),
        ("Failed to stream bundle http://h/b: not found: unexpected HTTP error code 404", "does not have this file"),
        ("failed to configure streaming: unexpected HTTP error code 403", r"refuses to send the file \(HTTP 403\)"),
        ("Slot (8388608 bytes) is too small for image (9388608 bytes).", "slots of this disk are too small"),
        ("Failed to write: No space left on device", "no space left to install the bundle"),
        ("Already processing a different method".lower(), "RAUC is installing"),
    ],
)  # fmt: skip
def test_final_errors_have_a_reason_of_one_sentence(error: str, message: str) -> None:
    for remote in (False, True):
        reason = find_reason(error, remote=remote)
        assert re.search(message, reason.message), reason.message
        assert reason.final
        assert reason.hint
        assert "\n" not in reason.message


@pytest.mark.parametrize(
    "error",
    [
        "failed to configure streaming: server not responding",
        "failed to configure streaming: unexpected HTTP error code 503",
        "failed to configure streaming: SSL certificate problem: certificate has expired",
        "Failed updating slot root.1: failed to copy data: Error reading from file: Input/output error",
    ],
)
def test_network_errors_are_final_only_for_files(error: str) -> None:
    assert not find_reason(error, remote=True).final
    assert find_reason(error, remote=False).final


def test_a_failing_disk_is_distinguished_from_a_lost_connection() -> None:
    error = "Failed updating slot root.1: Error writing to file descriptor: Input/output error"
    disk = "I/O error, dev vdb, sector 40960 op 0x1:(WRITE) flags 0x4800 phys_seg 1 prio class 2"
    network = "I/O error, dev nbd0, sector 8 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2"
    reason = find_reason(error, remote=True, kernel=[network, disk])
    assert reason.final
    assert reason.message.startswith("the disk vdb has failed: ")
    assert not find_reason(error, remote=True, kernel=[network]).final


def test_damaged_contents_are_retried_for_a_server_only() -> None:
    line = "device-mapper: verity: 254:0: data block 501 is corrupted"
    assert (find_reason("x", remote=True, kernel=[line]).kind, find_reason("x", remote=True, kernel=[line]).final) == (
        CORRUPT,
        False,
    )
    assert find_reason("x", remote=False, kernel=[line]).final


def test_the_error_of_the_hook_is_preferred_to_that_of_rauc() -> None:
    log = [
        "hook: Problem: /efi/EFI/Linux/edge-b.efi.partial: No space left on device (9000 bytes are needed, 10 are free)"
    ]
    error = "Failed updating slot boot.1: failed to run slot hook: Child process exited with code 1"
    reason = find_reason(error, remote=True, log=log)
    assert reason.final
    assert reason.message == "no space left to install the bundle: 9000 bytes are needed, 10 are free"


def test_the_error_is_the_line_that_is_not_from_glib() -> None:
    text = GLIB + "signature verification failed: Verify error: certificate revoked\n"
    assert rauc_error(text) == "signature verification failed: Verify error: certificate revoked"
    assert rauc_error("")


def test_a_manifest_is_parsed_from_the_output_of_rauc_info() -> None:
    text = json.dumps(
        {
            "update": {"version": "1.0.0", "compatible": "edge-osbuild-tiny-test", "build": "key"},
            "images": [{"slot-class": "root", "size": 204800}, {"slot-class": "boot", "size": 94208}],
            "manifest-hash": "b458", "meta": {"edge": {"architecture": "x86_64"}},
        }
    )  # fmt: skip
    bundle_manifest = parse_manifest(text)
    assert (bundle_manifest.version, bundle_manifest.hash, bundle_manifest.images) == (
        "1.0.0",
        "b458",
        {"root": 204800, "boot": 94208},
    )
    assert bundle_manifest.meta == {"architecture": "x86_64"}
    for broken in ("", "[]", "{}", '{"update": {}}'):
        with pytest.raises(Failure):
            parse_manifest(broken)


LOG = """\
installing http://10.0.2.2:38811/next.raucb: Updating slot root.1
Building new hash index for target_slot with 129792 chunks
Building new hash index for active_slot with 129792 chunks
access stats for zero chunk: count=0
access stats for target_slot_written (reusing source_image): count=29874 sum=193.000 min=0.000 max=1.000 avg=0.006 recent-avg=0.000
access stats for target_slot: count=29681 sum=0.000 min=0.000 max=0.000 avg=0.000 recent-avg=0.000
access stats for active_slot: count=29681 sum=29678.000 min=0.000 max=1.000 avg=1.000 recent-avg=0.984
access stats for source_image: count=3 sum=3.000 min=1.000 max=1.000 avg=1.000 recent-avg=1.000
access stats for zero chunk: count=0
access stats for target_slot_written (reusing source_image): count=238 sum=0.000 min=0.000 max=0.000 avg=0.000 recent-avg=0.000
access stats for target_slot: count=238 sum=0.000 min=0.000 max=0.000 avg=0.000 recent-avg=0.000
access stats for active_slot: count=238 sum=231.000 min=0.000 max=1.000 avg=0.971 recent-avg=0.969
access stats for source_image: count=7 sum=7.000 min=1.000 max=1.000 avg=1.000 recent-avg=1.000
nbd dl_size: count=313 sum=1971984.000 min=4.000 max=212992.000 avg=6300.268 recent-avg=4736.000
nbd dl_speed: count=313 sum=55359805.000 min=17.000 max=7695960.000 avg=176868.387 recent-avg=150697.562
""".splitlines()  # noqa: E501


def test_statistics_are_read_from_the_log_of_rauc() -> None:
    statistics = rauc_journal.read_statistics(LOG)
    assert statistics.to_json() == {
        "fetched": 1971984, "requests": 313, "adaptive": True,
        "chunks": {"zero": 0, "target_slot": 193, "active_slot": 29909, "source_image": 10},
    }  # fmt: skip
    assert statistics.summary_line() == "adaptive: 10 of 30112 blocks of 4 KiB were taken from the bundle"
    assert rauc_journal.read_statistics([]).to_json()["adaptive"] is None


def test_a_whole_copy_is_not_reported_as_adaptive() -> None:
    statistics = rauc_journal.read_statistics(
        [*LOG, "Continuing after adaptive mode error: no chunk with required hash [ab12] found"]
    )
    assert statistics.adaptive is False
    assert "copied the whole image" in (statistics.summary_line() or "")
    assert find_lost_block(["Continuing after adaptive mode error: no chunk with required hash [ab12] found"]) == "ab12"
    assert find_lost_block(["Continuing after adaptive mode error: image/partition size (7) is not a multiple"]) is None


@pytest.mark.parametrize(
    "line", ["rauc-Message: 15:58:15.711: hello", "(rauc:123): rauc-WARNING **: 15:58:15.711: hello", "hello",
             "rauc-nbd-Message: 09:00:00.001: hello"],
)  # fmt: skip
def test_glibs_prefixes_are_no_part_of_a_line(line: str) -> None:
    assert rauc_journal.PREFIX.sub("", line) == "hello"


def test_traffic_counts_the_devices_that_came_and_notices_a_server_that_stalls(tmp_path: Path) -> None:
    def nbd(number: int, sectors: int, waiting: int) -> None:
        folder = tmp_path / f"sys/block/nbd{number}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pid").write_text("7\n")
        (folder / "stat").write_text(f"  10 0 {sectors} 5 0 0 0 0 {waiting} 5 5\n")

    nbd(0, 999, 1)
    traffic = NbdCounters(System(tmp_path))
    traffic.start()
    nbd(1, 8, 0)
    traffic.poll()
    assert (traffic.fetched, traffic.waiting) == (4096, False)
    patient, hasty = StallDetector(3600), StallDetector(-1)
    nbd(1, 16, 1)
    traffic.poll()
    assert (traffic.fetched, traffic.waiting) == (8192, True)
    assert not patient.poll(traffic)
    assert hasty.poll(traffic)


def test_the_kernels_words_are_read_from_now_on(tmp_path: Path) -> None:
    path = tmp_path / "dev/kmsg"
    path.parent.mkdir()
    path.write_text("4,1,1,-;old\n")
    with KernelMessages(System(tmp_path)) as messages, path.open("a") as file:
        file.write("3,2,2,-;I/O error, dev vdb, sector 1\n SUBSYSTEM=block\n")
        file.flush()
        assert messages.read_lines() == ["I/O error, dev vdb, sector 1"]
    with KernelMessages(System(tmp_path / "nowhere")) as messages:
        assert messages.read_lines() == []

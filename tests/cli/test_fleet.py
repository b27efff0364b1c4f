"""`publish` and `fleet` against a real update server."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from osbuild.agent.fleet.poll import PollState, poll_once
from osbuild.agent.system import System
from osbuild.keys.key_folder import load_keys
from osbuild.shared.image_description import DESCRIPTION_FILE
from osbuild.shared.node_settings import AGENT_FILE
from tests.support.fleet_command_line import CommandLine
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def user(server: RunningServer, tmp_path: Path) -> CommandLine:
    return CommandLine(server, tmp_path / "home")


def publish_version(user: CommandLine, server: RunningServer, folder: Path, version: str) -> str:
    """Publish a bundle, and return its number."""
    make_bundle(folder / "one.raucb", load_keys(server.data.parent / "keys"), version)
    return user.call("publish", folder / "one.raucb").partition(":")[0]


def test_the_login_is_stored_for_the_user_only(user: CommandLine) -> None:
    stored = Path(user.environ["XDG_CONFIG_HOME"]) / "edge-osbuild/fleet.json"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert "no rollout" in user.run("fleet", "rollout", "list")


def test_without_a_login_every_command_says_how_to_log_in(user: CommandLine, tmp_path: Path) -> None:
    user.environ["XDG_CONFIG_HOME"] = str(tmp_path / "nobody")
    for arguments in (("fleet", "devices"), ("fleet", "rollout", "list"), ("publish", "f.raucb")):
        assert "edge-osbuild fleet login" in user.run(*arguments, status=1)


def test_json_has_escapes_for_what_a_terminal_would_obey(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    with server.enrol("odd", create_token(server), tmp_path) as device:
        device.put(f"{BASE}/odd/configData", json={"data": {"note": "\x9b2J\u202eö"}})
    text = user.run("fleet", "device", "odd", "--json")
    assert r'"\u009b2J\u202eö"' in text and text.replace("\n", "").isprintable()
    assert json.loads(text)["attributes"] == {"note": "\x9b2J\u202eö"}


def test_a_seed_with_enrol_lets_its_node_enrol_once(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    output = tmp_path / "seed"
    user.run("seed", "minimal", "--node", "shop-17", "--enrol", "-o", output)
    data = yaml.safe_load((output / "user-data").read_text())
    (content,) = [file["content"] for file in data["write_files"] if file["path"] == "/etc/edge-osbuild/agent.json"]
    settings = json.loads(content)
    assert settings["server"] == server.url and settings["node"] == "shop-17"
    assert settings["authority"] == (server.data / "tls/server-ca.crt").read_text().rstrip("\n")
    server.enrol("shop-17", settings["enrolment"], tmp_path).close()
    with pytest.raises(AssertionError, match="for another device"):
        server.enrol("shop-18", settings["enrolment"], tmp_path)
    assert "shop-17" in user.run("fleet", "devices")


def test_rollouts_select_devices_by_what_their_profile_lets_them_report(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    """From the profile through the seed to a poll of the device, and from its attributes to a rollout."""
    profile = tmp_path / "shop.yaml"
    agent = {"attributes": {"site": "Oslo, Norway", "rack": "7"}, "facts": ["cpus"]}
    profile.write_text(yaml.safe_dump({"name": "shop", "extends": "minimal", "agent": agent}))
    for name, options in (("desk-1", ()), ("desk-2", ("--set", "agent.attributes.site=Bergen"))):
        user.run("seed", profile, "--node", name, "--enrol", *options, "-o", tmp_path / name)
        data = yaml.safe_load((tmp_path / name / "user-data").read_text())
        system = System(tmp_path / f"{name}-root")
        for file in data["write_files"]:
            system.path(file["path"]).parent.mkdir(parents=True, exist_ok=True)
            system.path(file["path"]).write_text(file["content"])
        system.path(DESCRIPTION_FILE).parent.mkdir(parents=True)
        system.path(DESCRIPTION_FILE).write_text('{"name": "edge-server", "version": "1.0.0"}')
        poll_once(system, AGENT_FILE, PollState())
    assert "Bergen" in user.run("fleet", "device", "desk-2")
    bundle = publish_version(user, server, tmp_path, "6.0.0")
    order = ("fleet", "rollout", "create", "sites", bundle, "--preview", "--select")
    for patterns, devices in (
        (("site=Bergen",), {"desk-2"}), (("site=Oslo? *", "--select", "rack=7"), {"desk-1"}),
        (("site=Oslo*,Bergen",), {"desk-1", "desk-2"}), (("cpus=?*",), {"desk-1", "desk-2"}),
        (("site=*", "--groups", "site=Bergen,rest"), {"desk-1", "desk-2"}),
    ):  # fmt: skip
        preview = user.run(*order, *patterns)
        assert set(re.findall(r"desk-\d", preview)) == devices, preview
    assert "desk-" not in user.run(*order, "site=Stavanger", status=1)
    error = user.run("seed", profile, "--node", "desk-3", "-o", tmp_path / "desk-3", status=1)
    assert "no effect without an update server" in error and "agent.attributes" in error


def test_people_get_tokens_and_devices_are_decommissioned(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    token = user.run("fleet", "enrol-token", "--device", "kiosk").strip()
    server.enrol("kiosk", token, tmp_path).close()
    ann = CommandLine(server, tmp_path / "ann", user.run("fleet", "token", "ann", "--role", "viewer").strip())
    assert "kiosk" in ann.run("fleet", "devices")
    assert "needs the role admin" in ann.run("fleet", "decommission", "kiosk", status=1)
    user.run("fleet", "decommission", "kiosk")
    assert "kiosk" not in ann.run("fleet", "devices")
    assert re.match(r"kiosk: decommissioned on \d{4}-", ann.run("fleet", "device", "kiosk"))
    log = ann.run("fleet", "audit")
    assert re.search(r"admin +127\.0\.0\.1 +device decommissioned +kiosk", log)
    assert re.search(r"access token created +\w+ +role: \w+, expires: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", log)
    assert re.search(r"ann +viewer +until \d{4}-", user.run("fleet", "tokens"))
    assert user.complete("edge-osbuild fleet revoke an") == ["ann"]
    user.run("fleet", "revoke", "ann")
    assert user.complete("edge-osbuild fleet revoke an") == []
    assert "does not accept the access token" in ann.run("fleet", "devices", status=1)


def test_a_name_that_is_another_address_is_a_usage_error_and_nothing_is_sent(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    bundle = publish_version(user, server, tmp_path, "0.4.0")
    for name in ("dev-a", "dev-b"):
        server.enrol(name, create_token(server), tmp_path).close()
    user.run("fleet", "update", "dev-b", bundle)
    ((action, state),) = server.actions("dev-b")
    assert state == "running"
    named = f"dev-b/actions/{action}"
    for command in (("decommission", named), ("device", ".."), ("enrol-token", "--device", named)):
        assert "this is not a name" in user.run("fleet", *command, status=2)
    error = user.run("fleet", "decommission", "--forbidden-name", named, status=1)
    assert f"there is no device {named}" in error
    assert server.actions("dev-b") == [(action, "running")] and not server.is_decommissioned("dev-a")
    user.run("fleet", "decommission", "--forbidden-name", "dev-a")
    assert server.is_decommissioned("dev-a")


def test_enrolment_tokens_are_listed_and_revoked(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    token = user.run("fleet", "enrol-token", "--uses", "3", "--note", "first floor").strip()
    server.enrol("floor-1", token, tmp_path).close()
    listed = user.run("fleet", "enrol-tokens")
    (line,) = [line for line in listed.splitlines() if "first floor" in line]
    assert "2 uses left" in line and token not in listed
    user.run("fleet", "revoke-enrol-token", line.split()[0])
    with pytest.raises(AssertionError, match="was revoked"):
        server.enrol("floor-2", token, tmp_path)
    assert "no enrolment token" in user.run("fleet", "revoke-enrol-token", line.split()[0], status=1)
    views = json.loads(user.run("fleet", "enrol-tokens", "--json"))
    assert [view["uses_left"] for view in views if view["revoked"] and view["note"] == "first floor"] == [2]


def test_a_device_that_does_not_enrol_has_a_token_and_what_it_is_told_is_cancelled(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    token = user.run("fleet", "target-token", "vending-1").strip()
    bundle = publish_version(user, server, tmp_path, "0.6.0")
    assert "has no action" in user.run("fleet", "cancel", "vending-1", status=1)
    user.run("fleet", "update", "vending-1", bundle)
    assert "0.6.0, cancelling" in user.run("fleet", "cancel", "vending-1")
    with server.anybody() as device:
        poll = device.get(f"{BASE}/vending-1", headers={"authorization": f"TargetToken {token}"})
    assert "cancelAction" in poll.json()["_links"]


def test_one_device_may_be_asked_for_a_confirmation_and_have_windows(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    token = user.run("fleet", "target-token", "vending-2").strip()
    bundle = publish_version(user, server, tmp_path, "0.6.1")
    for options, problem in (
        (("--zone", "Europe/Berlin"), "--zone has no effect without --window"),
        (("--window", "Mon-Sun"), "--window: "),
        (("--window", "Mon 01:00-02:00", "--until", "soon"), "--until: "),
    ):
        assert problem in user.run("fleet", "update", "vending-2", bundle, *options, status=2)
    user.run("fleet", "update", "vending-2", bundle, "--confirm", "--window", "Mon 01:00-02:00", "--zone", "UTC")
    with server.anybody() as device:
        headers = {"authorization": f"TargetToken {token}"}
        address = device.get(f"{BASE}/vending-2", headers=headers).json()["_links"]["confirmationBase"]["href"]
        deployment = device.get(address, headers=headers).json()["confirmation"]
    assert deployment["maintenanceWindow"] in ("available", "unavailable")


def test_a_bundle_is_listed_and_deleted_when_nothing_needs_it(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    bundle = publish_version(user, server, tmp_path, "0.5.0")
    assert re.search(rf"{bundle} +edge-server 0.5.0 +edge-x86_64 +1.2 MB", user.run("fleet", "bundle", "list"))
    server.enrol("museum-1", user.run("fleet", "enrol-token").strip(), tmp_path).close()
    user.run("fleet", "rollout", "create", "desks", bundle, "--select", "name=museum-*", "--weight", "7")
    assert "the rollout desks" in user.run("fleet", "bundle", "delete", bundle, status=1)
    user.run("fleet", "rollout", "abort", "desks")
    user.run("fleet", "bundle", "delete", bundle)
    numbers = [view["id"] for view in json.loads(user.run("fleet", "bundle", "list", "--json"))]
    assert int(bundle) not in numbers
    assert f"there is no bundle {bundle}" in user.run("fleet", "bundle", "delete", bundle, status=1)


def test_a_rollout_is_previewed_created_watched_and_ended(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    bundle = publish_version(user, server, tmp_path, "7.0.0")
    token = user.run("fleet", "enrol-token", "--uses", "5").strip()
    for number in range(4):
        server.enrol(f"till-{number}", token, tmp_path).close()
    order = ("fleet", "rollout", "create", "summer", bundle, "--select", "name=till-*", "--groups", "25,75")
    preview = user.run(*order, "--preview")
    assert preview.splitlines()[0] == "4 devices, in groups of 1, 3" and "till-3" in preview
    assert "no rollout summer" in user.run("fleet", "rollout", "show", "summer", status=1)
    assert "summer: edge-server 7.0.0, ready" in user.run(*order)
    assert "there is a rollout named summer already" in user.run(*order, status=1)
    started = json.loads(user.run("fleet", "rollout", "start", "summer", "--json"))
    assert [group["state"] for group in started["groups"]] == ["running", "waiting"]
    assert "paused by admin" in user.run("fleet", "rollout", "pause", "summer")
    assert "running" in user.run("fleet", "rollout", "resume", "summer")
    assert re.search(r"action \d+: edge-server 7.0.0, running", user.run("fleet", "device", "till-0"))
    assert "aborted by admin" in user.run("fleet", "rollout", "abort", "summer")
    assert "is aborted" in user.run("fleet", "rollout", "resume", "summer", status=1)
    assert "cancelling" in user.run("fleet", "device", "till-0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--select", "version"), "this selects nothing: version"),
        (("--select", "version=1", "--select", "version=2"), "there are two patterns for version"),
        (("--groups", "a,b"), "this is not a group: a"),
        (("--groups", "count=x,rest"), "this is not a number of devices: x"),
        (("--success", "101"), "--success"),
        (("--soft", "--kind", "forced"), "--soft contradicts --kind forced"),
        (("--deadline", "1w"), "--deadline: this is not a duration: 1w"),
        (("--deadline", "0s"), "--deadline: group 1: `deadline` is between 1 and"),
        (("--groups", "50,20"), "--groups: the groups have 70 percent of the devices together, and must have 100"),
        (("--window", "Sat"), "this is not a maintenance window: Sat"),
        (("--zone", "Europe/Berlin"), "--zone has no effect without --window"),
        (("--start", "tomorrow"), "this is not a time: tomorrow"),
        (("--start", "2026-12-01T02:00"), "this time has no time zone: 2026-12-01T02:00"),
        (("--start", "2026-12-01T02:00+01:00", "--now"), "--now contradicts --start"),
    ],
)
def test_wrong_options_of_a_rollout_are_usage_errors(user: CommandLine, options: tuple[str, ...], message: str) -> None:
    assert message in user.run("fleet", "rollout", "create", "x", "1", *options, status=2)


def test_requests_say_at_once_what_they_wait_for(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    server.enrol("porch", create_token(server), tmp_path).close()
    for output, message in ((tmp_path, "a folder, not a file"), (tmp_path / "none/out", "this folder does not exist")):
        assert message in user.call("fleet", "request", "porch", "diagnostics", "-o", output, status=1)
    assert user.call("fleet", "requests", "porch") == "there are no requests; `edge-osbuild fleet request` makes one\n"
    command = [sys.executable, "-m", "osbuild", "fleet", "request", "porch"]
    for arguments, later in (
        (["diagnostics", "-o", tmp_path / "out"], r"`edge-osbuild fleet diagnostics (\d+) -o FILE`"),
        (["reboot", "--wait"], "`edge-osbuild fleet requests porch`"),
    ):
        with subprocess.Popen([*command, *arguments], env=user.environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert re.search(rf"request \d+: waiting until \d{{4}}-\S+ \S+ UTC; after Ctrl\+C, {later}", line), line


def test_refusals_say_which_devices_and_what_to_do(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    bundle = publish_version(user, server, tmp_path, "11.0.0")
    token = user.call("fleet", "enrol-token", "--uses", "3").strip()
    for name, compatible in (("gate-1", "edge-rpi4"), ("gate-2", "edge-x86_64"), ("gate-3", "")):
        with server.enrol(name, token, tmp_path) as device:
            if compatible:
                device.put(f"{BASE}/{name}/configData", json={"data": {"compatible": compatible, "health": "healthy"}})
    create = ("fleet", "rollout", "create", "gates", bundle, "--select")
    error = user.call(*create, "name=gate-*", status=1)
    assert "gate-1 (edge-rpi4)" in error and "--select compatible=edge-x86_64" in error
    error = user.call("fleet", "update", "gate-1", bundle, status=1)
    assert "is for edge-x86_64, not for gate-1 (edge-rpi4)" in error
    assert "no device matches name=gete-*" in user.call(*create, "name=gete-*", "--preview", status=1)
    assert "no device matches name=gete-*" in user.call(*create, "name=gete-*", status=1)
    assert user.call(*create, "name=gate-[23]", "--preview").startswith("2 devices, in one group\n")
    order = {"name": "x", "bundle": int(bundle), "groups": [{}], "selection": {"name": "gate-[23]"}}
    assert server.order("/rollouts/preview", order)["unsaid"] == 1
    assert server.order("/rollouts", order)["unsaid"] == 1
    assert server.order("/devices/gate-2/actions", {"bundle": int(bundle)})["unsaid"] is False
    assert server.order("/devices/gate-3/actions", {"bundle": int(bundle)})["unsaid"] is True
    devices = user.call("fleet", "devices")
    assert re.search(r"gate-2 +\? +healthy +(seen \d{4}-\S+ \S+|never seen) +edge-server 11.0.0: running", devices)


def test_what_does_not_exist_is_listed_by_a_command_that_the_hint_names(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    server.enrol("attic", create_token(server), tmp_path).close()
    for arguments, listing in (
        (("device", "x"), "fleet devices"), (("update", "attic", "999"), "fleet bundle list"),
        (("bundle", "delete", "999"), "fleet bundle list"), (("rollout", "show", "none"), "fleet rollout list"),
        (("revoke", "x"), "fleet tokens"), (("revoke-enrol-token", "999"), "fleet enrol-tokens"),
    ):  # fmt: skip
        error = user.call("fleet", *arguments, status=1)
        assert "there is no" in error and f"`edge-osbuild {listing}` lists" in error
    assert "decommissioned attic" in user.call("fleet", "decommission", "attic")
    for arguments in (("update", "attic", "1"), ("tag", "attic", "a=b"), ("decommission", "attic")):
        error = user.call("fleet", *arguments, status=1)
        assert "attic is decommissioned" in error and "fleet enrol-token --device attic" in error
    error = user.call("fleet", "token", "a b", "--role", "viewer", status=1)
    assert "`name` has characters that it must not have" in error and "regex" not in error


def test_the_last_administrator_is_only_revoked_with_yes(user: CommandLine, server: RunningServer) -> None:
    error = user.call("fleet", "revoke", "admin", status=2)
    assert "the last valid token of an administrator" in error and "--yes" in error
    user.call("fleet", "token", "second", "--role", "admin")
    assert user.call("fleet", "revoke", "second") == "revoked the access token second\n"


def test_the_audit_log_says_what_was_ordered_and_nothing_twice(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    bundle = publish_version(user, server, tmp_path, "12.0.0")
    server.enrol("hall-1", create_token(server), tmp_path).close()
    order = ("fleet", "rollout", "create", "halls", bundle, "--select", "name=hall-*", "--success", "90")
    user.call(*order, "--error", "7", "--kind", "soft", "--weight", "3", "--window", "Sat 02:00-04:00", "--now")
    for verb in ("pause", "resume", "abort"):
        user.call("fleet", "rollout", verb, "halls")
    user.call("fleet", "update", "hall-1", bundle, "--kind", "download-only")
    for _ in range(2):
        user.call("fleet", "cancel", "hall-1")
        user.call("publish", tmp_path / "one.raucb")
        user.call("fleet", "tag", "hall-1", "a=b")
    damaged = tmp_path / "damaged.raucb"
    damaged.write_bytes(b"hsqs" + bytes(5000))
    error = user.call("publish", damaged, status=1)
    entries = json.loads(user.call("fleet", "audit", "--json"))
    begin = next(number for number, entry in enumerate(entries) if entry["event"] == "bundle published")
    events = [(entry["event"], entry["subject"], entry["details"]) for entry in reversed(entries[: begin + 1])]
    (created,) = [details for event, _, details in events if event == "rollout created"]
    assert created == {
        "bundle": int(bundle), "selection": {"name": "hall-*"}, "groups": [1], "success": [90], "error": [7],
        "kind": "soft", "weight": 3, "confirm": None, "start": None, "windows": "Sat 02:00-04:00",
    }  # fmt: skip
    assert [event for event, _, _ in events] == [
        "bundle published", "enrolment token created", "device enrolled", "rollout created", "rollout started",
        "rollout paused", "rollout resumed", "rollout aborted", "action created", "action cancelled", "tags changed",
        "publish refused",
    ]  # fmt: skip
    assert [details["kind"] for event, _, details in events if event == "action created"] == ["download-only"]
    assert events[-1][1] == "damaged.raucb" and events[-1][2]["reason"] in error
    assert entries[0]["who"] == "admin"
    log = user.call("fleet", "audit", "--before", str(entries[0]["id"]))
    assert "publish refused" not in log and log.split()[0] == str(entries[1]["id"])
    assert re.search("rollout created +halls +bundle: .*selection: name=hall-.*, groups: 1, success: 90", log)


def test_a_rollout_waits_for_its_time(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    bundle = publish_version(user, server, tmp_path, "8.0.0")
    server.enrol("kiosk-1", user.run("fleet", "enrol-token").strip(), tmp_path).close()
    order = ("fleet", "rollout", "create", "spring", bundle, "--select", "name=kiosk-*", "--kind", "download-only")
    assert "`start` is not in the future" in user.run(*order, "--start", "2020-01-01T00:00Z", status=1)
    assert "scheduled for 2099-12-01 01:00:00 UTC" in user.run(*order, "--start", "2099-12-01T02:00+01:00")
    assert server.rollout("spring")["kind"] == "download-only" and server.actions("kiosk-1") == []
    assert "spring: edge-server 8.0.0, running" in user.run("fleet", "rollout", "start", "spring")


def test_groups_are_shares_counts_selections_and_the_rest(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    bundle = publish_version(user, server, tmp_path, "9.0.0")
    token = user.run("fleet", "enrol-token", "--uses", "6").strip()
    for number in range(6):
        server.enrol(f"pump-{number}", token, tmp_path).close()
    order = ("fleet", "rollout", "create", "autumn", bundle, "--select", "name=pump-*", "--preview", "--groups")
    assert user.run(*order, "count=1,name=pump-[45],25%,rest").splitlines() == [
        "6 devices, in groups of 1, 2, 2, 1",
        "  group 1: pump-0",
        "  group 2: pump-4, pump-5",
        "  group 3: pump-1, pump-2",
        "  group 4: pump-3",
    ]
    assert "4 of the selected devices are in no group" in user.run(*order, "count=1,name=pump-4", status=1)
    assert "group 2 would have no device" in user.run(*order, "count=1,name=pump-0,rest", status=1)


def test_tags_select_devices_and_windows_and_deadlines_are_shown(
    user: CommandLine, server: RunningServer, tmp_path: Path
) -> None:
    bundle = publish_version(user, server, tmp_path, "10.0.0")
    token = user.run("fleet", "enrol-token", "--uses", "2").strip()
    for number in range(2):
        server.enrol(f"lift-{number}", token, tmp_path).close()
    assert "tag.site" in user.run("fleet", "tag", "lift-1", "site=berlin", "old=yes")
    assert user.run("fleet", "tag", "lift-1", "old=").split() == ["lift-1", "tag.site", "berlin"]
    assert "a tag is KEY=VALUE" in user.run("fleet", "tag", "lift-1", "a b=c", status=1)
    assert "this is not a tag: x" in user.run("fleet", "tag", "lift-1", "x", status=2)
    assert "tags changed" in user.run("fleet", "audit")
    order = ("fleet", "rollout", "create", "lifts", bundle, "--select", "tag.site=berlin", "--now", "--deadline", "2h")
    windows = ("--window", "Sat 02:00-04:00", "--zone", "Europe/Berlin", "--until", "2099-01-01T00:00Z")
    text = user.run(*order, *windows)
    assert "maintenance windows: Sat 02:00-04:00, Europe/Berlin, until 2099-01-01 00:00:00 UTC" in text
    assert "0 of 1 succeeded" in text and "1 has not reported an end" in text
    assert server.rollout("lifts")["groups"][0]["deadline"] == 7200
    assert server.actions("lift-0") == [] and len(server.actions("lift-1")) == 1


def test_requests_are_made_listed_and_limited(user: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    server.enrol("desk", create_token(server), tmp_path).close()
    made = json.loads(user.run("fleet", "request", "desk", "diagnostics", "--json"))
    assert (made["device"], made["kind"], made["state"]) == ("desk", "diagnostics", "waiting")
    assert f"request {made['id'] + 1}: reboot of desk, waiting" in user.run("fleet", "request", "desk", "reboot")
    assert re.search(r"desk +reboot +waiting +admin", user.run("fleet", "requests", "desk"))
    error = user.run("fleet", "diagnostics", str(made["id"]), "-o", tmp_path / "out.tar.gz", status=1)
    assert "has no diagnostics" in error and not (tmp_path / "out.tar.gz").exists()
    assert "add --yes" in user.run("fleet", "request", "desk", "wipe", status=2)
    assert "remove --output" in user.run("fleet", "request", "desk", "reboot", "-o", "x", status=2)
    assert "there is no device nobody" in user.run("fleet", "request", "nobody", "reboot", status=1)

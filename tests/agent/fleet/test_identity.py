"""Who a device is for a real update server: enrolment, renewal, other tokens and servers."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.fleet import identity
from osbuild.agent.fleet.connection import FleetServer
from osbuild.agent.fleet.identity import (
    ENROLMENT,
    copy_identity,
    device_context,
    identity_files,
    prepare_identity,
    rotate_identity,
)
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.system import System
from osbuild.shared.files import sync_path
from tests.support.cuts import Cut
from tests.support.update_server import RunningServer, create_token, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def settings_for(server: RunningServer, node: str, token: str | None) -> FleetSettings:
    authority = (server.data / "tls/server-ca.crt").read_text()
    return FleetSettings(node, server.url, authority, token)


def poll(settings: FleetSettings, system: System) -> int:
    context = identity_files(system).make_context()
    return FleetServer(settings.base, context).get().status


def test_a_device_enrols_once_with_a_key_that_only_it_has(server: RunningServer, tmp_path: Path) -> None:
    system, settings = System(tmp_path), settings_for(server, "one", create_token(server))
    files = prepare_identity(system, settings)
    assert files.key.stat().st_mode & 0o777 == 0o600
    certificate = files.certificate.read_bytes()
    assert prepare_identity(system, settings).certificate.read_bytes() == certificate, "the token is not used again"
    assert poll(settings, system) == 200


def test_an_answer_that_was_lost_does_not_use_the_token_up(server: RunningServer, tmp_path: Path) -> None:
    system, settings = System(tmp_path), settings_for(server, "two", create_token(server))
    files = prepare_identity(system, settings)
    files.certificate.unlink()
    system.path(ENROLMENT).unlink()
    prepare_identity(system, settings)
    assert poll(settings, system) == 200


def test_a_new_token_enrols_again_and_a_refused_one_changes_nothing(server: RunningServer, tmp_path: Path) -> None:
    system = System(tmp_path)
    first = prepare_identity(system, settings_for(server, "three", create_token(server))).certificate.read_bytes()
    wrong = settings_for(server, "three", "edge_enrol_wrong")
    assert prepare_identity(system, wrong).certificate.read_bytes() == first
    assert poll(wrong, system) == 200
    new = settings_for(server, "three", create_token(server, device="three"))
    assert prepare_identity(system, new).certificate.read_bytes() != first
    assert poll(new, system) == 200


def test_without_a_token_a_new_device_says_what_to_do(server: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no enrolment token") as caught:
        prepare_identity(System(tmp_path), settings_for(server, "four", None))
    assert "edge-osbuild fleet enrol-token" in (caught.value.hint or "")


def test_a_certificate_is_renewed_before_its_end(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, settings = System(tmp_path), settings_for(server, "five", create_token(server))
    first = prepare_identity(system, settings).certificate.read_bytes()
    monkeypatch.setattr(identity, "RENEW_BEFORE", 100 * 24 * 3600)  # longer than a certificate is valid
    second = prepare_identity(system, settings).certificate.read_bytes()
    assert second != first
    assert poll(settings, system) == 200


def test_a_server_with_another_authority_is_not_spoken_to(server: RunningServer, tmp_path: Path) -> None:
    other = (server.data / "tls/device-ca.crt").read_text()
    settings = FleetSettings("six", server.url, other, create_token(server))
    with pytest.raises(Problem, match=r"cannot be reached: .*CERTIFICATE_VERIFY_FAILED"):
        prepare_identity(System(tmp_path), settings)


def test_root_copies_the_identity_and_follows_no_links(server: RunningServer, tmp_path: Path) -> None:
    system, settings = System(tmp_path), settings_for(server, "seven", create_token(server))
    files = prepare_identity(system, settings)
    copies = copy_identity(system, settings)
    assert copies.key.read_bytes() == files.key.read_bytes() and copies.key.stat().st_mode & 0o777 == 0o600
    assert FleetServer(settings.base, device_context(system, settings)).get().status == 200
    secret = tmp_path / "secret"
    files.key.rename(secret)
    files.key.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        copy_identity(system, settings)


def test_a_power_cut_while_a_new_key_is_taken_into_use_leaves_a_pair(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails before, between and after the steps; the next start completes or undoes the change."""
    system, settings = System(tmp_path), settings_for(server, "eight", create_token(server))
    first = prepare_identity(system, settings).key.read_bytes()
    keys = {first}
    for last in (0, 1, 2):  # the power fails after so many renames
        renames = iter(range(10))

        def sync_or_cut(path: Path, renames: Iterator[int] = renames, last: int = last) -> None:
            if next(renames) == last:
                raise Cut
            sync_path(path)

        with monkeypatch.context() as patch, suppress(Cut):
            patch.setattr(identity, "sync_path", sync_or_cut)
            rotate_identity(system, settings)
        files = prepare_identity(system, settings)
        assert poll(settings, system) == 200
        assert sorted(path.name for path in files.key.parent.glob("device.*")) == ["device.crt", "device.key"]
        keys.add(files.key.read_bytes())
    assert len(keys) == 4


@pytest.mark.parametrize("written", ["key", "certificate"])
def test_a_new_key_without_its_certificate_is_not_used(server: RunningServer, tmp_path: Path, written: str) -> None:
    """The power fails before the server has answered, or while the certificate is written."""
    system, settings = System(tmp_path), settings_for(server, f"nine-{written}", create_token(server))
    files = prepare_identity(system, settings)
    before = files.key.read_bytes()
    (files.key.parent / "device.key.next").write_text("new")
    if written == "certificate":
        (files.key.parent / "device.crt.next.new").write_text("half")
    prepare_identity(system, settings)
    assert files.key.read_bytes() == before and not (files.key.parent / "device.key.next").exists()
    assert poll(settings, system) == 200

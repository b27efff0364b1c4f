"""A bundle never leaves devices with an image that takes no more updates of their owner."""

import json
from pathlib import Path
from typing import Any

import pytest

from osbuild import cli
from osbuild.agent.errors import Problem
from osbuild.agent.update import preconditions
from osbuild.agent.update.rauc import BundleManifest
from osbuild.bundle import content, hook, source, trust
from osbuild.cli.bundle import with_permissions
from osbuild.host.cache import Cache
from osbuild.image import update_trust
from osbuild.inspection import update_changes
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.key_folder import KeyFolder, load_keys
from osbuild.pipeline.manifest import trusts_development
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.shared.errors import Error
from tests.support.builds import make_build
from tests.support.devices import Device


@pytest.fixture
def owner(tmp_path: Path) -> KeyFolder:
    return authority.create_keys(tmp_path / "owner", "Example", PrivateKeyAccess())


@pytest.fixture
def development(tmp_path: Path) -> KeyFolder:
    return authority.create_keys(tmp_path / "development", "edge-osbuild", PrivateKeyAccess(), development=True)


def facts(keys: KeyFolder) -> dict[str, Any]:
    """What a build says about whose updates its image takes."""
    return {"trust": json.loads(update_trust.trust_files("any", keys, boot="/efi")[update_trust.TRUST])}


def made(folder: Path, keys: KeyFolder) -> source.BundleSource:
    return source.read_build(make_build(folder, metadata=facts(keys)))


def test_an_image_with_development_keys_never_gets_the_signature_of_others(
    tmp_path: Path, owner: KeyFolder, development: KeyFolder
) -> None:
    image = made(tmp_path / "b", development)
    trust.check_trust(image, development)
    for permitted_too in (False, True):
        with pytest.raises(Error, match="trusts DEVELOPMENT keys only") as caught:
            trust.check_trust(with_permissions(image, None, change_owner=permitted_too), owner)
        assert str(owner.folder) in str(caught.value.hint)


@pytest.mark.parametrize("arguments", [(), ("--change-owner",)])
def test_the_command_line_refuses_it_before_anything_is_made(
    tmp_path: Path,
    owner: KeyFolder,
    development: KeyFolder,
    arguments: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_build(tmp_path / "b", metadata=facts(development))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bundle", str(tmp_path / "b"), "--keys", str(owner.folder), *arguments])
    assert stopped.value.code == 1
    assert "DEVELOPMENT" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.raucb"))


def real(folder: Path, image: dict[str, Any] | None, manifest: dict[str, Any]) -> Path:
    """A build whose root is a file system that says `image`, and whose manifest.json says `manifest`."""
    tree, packed = folder.with_name(f"{folder.name}-tree"), folder.with_name(f"{folder.name}.erofs")
    place = tree / update_trust.TRUST
    place.parent.mkdir(parents=True)
    if image is not None:
        place.write_text(json.dumps(image["trust"]))
    bundle_tools().run_command(["mkfs.erofs", "--quiet", packed, tree], [folder.parent])
    return make_build(folder, root=packed.read_bytes(), metadata={"board": "x86_64", **manifest})


def test_what_the_image_itself_trusts_counts_and_not_what_its_manifest_says(
    tmp_path: Path, owner: KeyFolder, development: KeyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever edits manifest.json, or puts another root beside it, gets no signature."""
    own_trust, development_trust = facts(owner), facts(development)
    unmarked = {"trust": {**development_trust["trust"], "development": False}}
    cases: list[tuple[dict[str, Any] | None, dict[str, Any], str]] = [
        (development_trust, own_trust, "accepts those of edge-osbuild (DEVELOPMENT keys)"),
        (development_trust, unmarked, "(DEVELOPMENT keys)"),
        (None, own_trust, "does not say whose updates"), ({"trust": []}, own_trust, "does not say whose updates"),
        ({"trust": {"roots": 1}}, own_trust, "does not say whose updates"),
    ]  # fmt: skip
    for number, (image, manifest, message) in enumerate(cases):
        build = real(tmp_path / f"b{number}", image, manifest)
        for arguments in ([], ["--change-owner"]):
            if arguments or manifest is own_trust:
                with pytest.raises(SystemExit, match="1"):
                    cli.main(["bundle", str(build), "--keys", str(owner.folder), *arguments])
                assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        cli.main(["bundle", str(make_build(tmp_path / "noise", metadata=own_trust)), "--keys", str(owner.folder)])
    assert not list(tmp_path.rglob("*.raucb"))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["bundle", str(real(tmp_path / "good", own_trust, own_trust)), "--keys", str(owner.folder)])


def test_another_owner_must_be_meant(tmp_path: Path, owner: KeyFolder, development: KeyFolder) -> None:
    """Also from development keys to real ones, when a lab's devices go to the field."""
    other = authority.create_keys(tmp_path / "other", "Other Ltd", PrivateKeyAccess())
    for image_keys, signing in ((other, owner), (owner, development)):
        image = made(tmp_path / f"{image_keys.owner}-{signing.owner}", image_keys)
        with pytest.raises(Error, match="issued by root-1") as caught:
            trust.check_trust(image, signing)
        assert "--change-owner" in str(caught.value.hint)
        trust.check_trust(with_permissions(image, None, change_owner=True), signing)


def test_a_build_that_does_not_say_is_made_again(tmp_path: Path, owner: KeyFolder) -> None:
    with pytest.raises(Error, match="does not say whose updates"):
        trust.check_trust(source.read_build(make_build(tmp_path / "b")), owner)


def rotation(folder: Path) -> list[tuple[KeyFolder, dict[str, Any]]]:
    """The keys that sign and what the image trusts at each step of docs/keys.md at which a bundle is made."""
    authority.create_keys(folder, "Example", PrivateKeyAccess())
    steps = [(load_keys(folder), facts(load_keys(folder)))]
    authority.rotate_root(folder, PrivateKeyAccess())
    steps.append((load_keys(folder), facts(load_keys(folder))))
    authority.rotate_signer(folder, PrivateKeyAccess(), below="root-2")
    steps.append((load_keys(folder), facts(load_keys(folder))))
    authority.revoke_key(folder, "root-1", PrivateKeyAccess(), reason="superseded")
    steps.append((load_keys(folder), facts(load_keys(folder))))
    return steps


def on(pc: Device, known: dict[str, Any]) -> Device:
    pc.put("usr/lib/edge-osbuild/trust.json", json.dumps(known["trust"]))
    return pc


def manifest(image: source.BundleSource) -> BundleManifest:
    """As the device reads it from RAUC."""
    lines = content.render_manifest(image).partition("[meta.edge]\n")[2].split("\n\n")[0].splitlines()
    meta = dict(line.partition("=")[::2] for line in lines)
    return BundleManifest("edge-osbuild-tiny-test", "1.1.0", "build", "hash", {"root": 2**20}, meta)


def test_every_step_of_a_rotation_can_be_signed_and_is_taken_by_devices_of_the_step_before(tmp_path: Path) -> None:
    steps = rotation(tmp_path / "keys")
    pc = Device(tmp_path / "pc")
    for number, (keys, trusted) in enumerate(steps):
        image = source.read_build(make_build(tmp_path / f"b{number}", metadata=trusted))
        trust.check_trust(image, keys)
        if number:
            preconditions.check_owner(on(pc, steps[number - 1][1]).context, "/bundle", manifest(image))
    first, last = steps[0][1], source.read_build(tmp_path / "b3")
    with pytest.raises(Problem, match="none of the roots that this device trusts"):
        preconditions.check_owner(on(pc, first).context, "/bundle", manifest(last))


def test_a_device_refuses_an_image_that_would_lock_it_out_unless_the_signer_permits_it(
    tmp_path: Path, owner: KeyFolder, development: KeyFolder
) -> None:
    pc, image = on(Device(tmp_path / "pc"), facts(owner)), made(tmp_path / "b", development)
    with pytest.raises(Problem, match="none of the roots that this device trusts") as caught:
        preconditions.check_owner(pc.context, "/bundle", manifest(image))
    assert caught.value.where == "/bundle" and "--change-owner" in str(caught.value.hint)
    preconditions.check_owner(pc.context, "/bundle", manifest(with_permissions(image, None, change_owner=True)))
    preconditions.check_owner(on(pc, facts(development)).context, "/bundle", manifest(image))
    preconditions.check_owner(on(pc, {"trust": {}}).context, "/bundle", manifest(image))
    preconditions.check_owner(
        on(pc, facts(owner)).context, "/bundle", manifest(source.read_build(make_build(tmp_path / "old")))
    )


def test_the_check_is_part_of_those_before_an_installation(
    tmp_path: Path, owner: KeyFolder, development: KeyFolder
) -> None:
    pc = on(Device(tmp_path / "pc"), facts(owner))
    with pytest.raises(Problem, match="none of the roots that this device trusts"):
        preconditions.check_bundle(
            pc.context, "/b", manifest(made(tmp_path / "b", development)), "edge-osbuild-tiny-test"
        )


def test_the_hook_of_the_bundle_checks_for_agents_that_do_not(
    tmp_path: Path, owner: KeyFolder, development: KeyFolder
) -> None:
    known = tmp_path / "trust.json"
    known.write_text(json.dumps(facts(owner)["trust"]))
    image = made(tmp_path / "b", development)
    for permitted_too, folder in ((False, tmp_path / "c1"), (True, tmp_path / "c2")):
        folder.mkdir()
        content.write_content(with_permissions(image, None, change_owner=permitted_too), folder)
    with pytest.raises(hook.HookError, match="only updates of edge-osbuild"):
        hook.check_trust(tmp_path / "c1", known)
    hook.check_trust(tmp_path / "c2", known)
    hook.check_trust(tmp_path / "c1", tmp_path / "nothing")
    known.write_text(json.dumps(facts(development)["trust"]))
    hook.check_trust(tmp_path / "c1", known)
    known.write_text("damaged")
    hook.check_trust(tmp_path / "c1", known)


def test_a_comparison_says_that_devices_would_refuse_it(
    tmp_path: Path, owner: KeyFolder, development: KeyFolder
) -> None:
    cache = Cache(tmp_path / "cache")
    old, same, new = (
        update_changes.read_side(make_build(tmp_path / name, metadata=facts(keys)), cache)
        for name, keys in (("old", owner), ("same", owner), ("new", development))
    )
    assert any(
        "none of the same root certificates" in remark for remark in update_changes.compare_builds(old, new).remarks
    )
    assert not any(
        "roots" in remark and "none" in remark for remark in update_changes.compare_builds(old, same).remarks
    )


def test_what_is_flashed_is_known_by_its_build(tmp_path: Path, owner: KeyFolder, development: KeyFolder) -> None:
    images = {}
    for keys in (owner, development):
        folder = make_build(tmp_path / f"b-{keys.owner}", metadata=facts(keys))
        images[keys.owner] = folder / "root.erofs"
    assert trusts_development(images["Example"]) is False
    assert trusts_development(images["edge-osbuild"]) is True
    assert trusts_development(images["edge-osbuild"].with_name("other.img")) is None
    assert trusts_development(tmp_path / "alone.img") is None

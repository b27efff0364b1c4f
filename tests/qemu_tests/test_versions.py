"""The versions that updates are tested with, as far as nothing is built."""

from dataclasses import replace
from pathlib import Path

import pytest
from support import failures, versions

from osbuild.config.board import load_board
from osbuild.config.load import LoadedProfile, load_profile
from osbuild.config.profile import Profile
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs import lock
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import Deb
from osbuild.kubernetes.registry import DISTRIBUTIONS
from osbuild.pipeline import resolve
from osbuild.rootfs.debian_root import PACKAGES


def loaded(name: str, flavour: str, folder: Path) -> LoadedProfile:
    path = folder / f"{flavour}-{name}.yaml"
    path.write_text(versions.profile_text(name, flavour))
    return load_profile(path)


@pytest.mark.parametrize("flavour", versions.BASE)
def test_versions_rise_differ_and_are_for_the_same_devices(flavour: str, tmp_path: Path) -> None:
    profiles: dict[str, Profile] = {}
    for name in (*versions.STEPS, *versions.FAULTS):
        loaded_profile = loaded(name, flavour, tmp_path)
        profiles[name] = loaded_profile.profile
        for overlay in loaded_profile.profile.overlays:
            assert "/" not in overlay or (loaded_profile.folder / overlay).is_dir()
    numbers = {name: tuple(int(part) for part in profile.version.split(".")) for name, profile in profiles.items()}
    assert len(set(numbers.values())) == len(numbers)
    assert {profile.name for profile in profiles.values()} == {f"test-{flavour}"}
    assert all(numbers["n"] < numbers["next"] < numbers[name] for name in versions.FAULTS)
    first, second = profiles["n"], profiles["next"]
    assert set(second.packages) > set(first.packages)
    assert set(second.kernel.arguments) > set(first.kernel.arguments)
    assert set(second.overlays) > set(first.overlays)
    for name in versions.FAULTS:
        differences = (set(profiles[name].overlays) - set(second.overlays), set(profiles[name].kernel.arguments))
        assert differences[0] or differences[1] > set(second.kernel.arguments), f"{name} is no different"
        assert profiles[name].health == replace(
            second.health, deadline=int(failures.TRIAL[flavour in versions.CLUSTERS])
        )
        assert replace(profiles[name], version="", overlays=(), kernel=second.kernel, health=second.health) == replace(
            second, version="", overlays=()
        ), f"{name} is broken by an overlay or a kernel argument and nothing else"


def test_a_lock_follows_from_the_shipped_profiles(tmp_path: Path) -> None:
    board, cache = load_board("x86_64"), Cache(tmp_path / "cache")
    deb = Deb("linux-image-6", "6", "amd64", "0" * 64, 1)
    names = sorted({*PACKAGES, *DISTRIBUTIONS["upstream"].packages})
    base = lock.Lock(
        "x86_64",
        Architecture.x86_64,
        "another",
        7,
        (),
        (),
        tuple(replace(deb, name=name) for name in names),
        deb,
        (),
        (),
    )
    version = loaded("n", "light", tmp_path)
    derived = versions.derive_lock(base, resolve.wanted_packages(version), version, board, cache)
    assert derived.request == resolve.request_key(version, board)
    assert replace(derived, request=base.request) == base, "nothing else is new"
    lock.save_lock(version, derived)
    assert resolve.current_lock(version, board, BuildContext(cache, locked=True)) == derived

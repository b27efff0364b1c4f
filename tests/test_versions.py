"""The versions that updates are tested with, as far as nothing is built."""

from dataclasses import replace
from pathlib import Path

import failures
import pytest
import versions

from osbuild import kubernetes, lock
from osbuild.arch import Architecture
from osbuild.board import load
from osbuild.cache import Cache
from osbuild.debian import Deb
from osbuild.profile.load import Loaded
from osbuild.profile.load import load as load_profile
from osbuild.profile.model import Profile
from osbuild.rootfs import PACKAGES


def loaded(name: str, flavour: str, folder: Path) -> Loaded:
    path = folder / f"{flavour}-{name}.yaml"
    path.write_text(versions.text(name, flavour))
    return load_profile(path)


@pytest.mark.parametrize("flavour", versions.BASE)
def test_versions_rise_differ_and_are_for_the_same_devices(flavour: str, tmp_path: Path) -> None:
    found: dict[str, Profile] = {}
    for name in (*versions.STEPS, *versions.FAULTS):
        made = loaded(name, flavour, tmp_path)
        found[name] = made.profile
        for overlay in made.profile.overlays:
            assert "/" not in overlay or (made.folder / overlay).is_dir()
    numbers = {name: tuple(int(part) for part in profile.version.split(".")) for name, profile in found.items()}
    assert len(set(numbers.values())) == len(numbers)
    assert {profile.name for profile in found.values()} == {f"test-{flavour}"}
    assert all(numbers["n"] < numbers["next"] < numbers[name] for name in versions.FAULTS)
    first, second = found["n"], found["next"]
    assert set(second.packages) > set(first.packages)
    assert set(second.kernel.arguments) > set(first.kernel.arguments)
    assert set(second.overlays) > set(first.overlays)
    for name in versions.FAULTS:
        more = (set(found[name].overlays) - set(second.overlays), set(found[name].kernel.arguments))
        assert more[0] or more[1] > set(second.kernel.arguments), f"{name} is no different"
        assert found[name].health == replace(second.health, deadline=int(failures.TRIAL[flavour in versions.CLUSTERS]))
        assert replace(found[name], version="", overlays=(), kernel=second.kernel, health=second.health) == replace(
            second, version="", overlays=()
        ), f"{name} is broken by an overlay or a kernel argument and nothing else"


def test_a_lock_follows_from_the_shipped_profiles(tmp_path: Path) -> None:
    board, cache = load("x86_64"), Cache(tmp_path / "cache")
    deb = Deb("linux-image-6", "6", "amd64", "0" * 64, 1)
    names = sorted({*PACKAGES, *kubernetes.packages("upstream")})
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
    made = loaded("n", "light", tmp_path)
    derived = versions.derived(base, lock.wanted(made), made, board, cache)
    assert derived.request == lock.request(made, board)
    assert replace(derived, request=base.request) == base, "nothing else is new"
    lock.save(made, derived)
    assert lock.current(made, board, cache, locked=True) == derived

"""Whatever bytes a profile has, loading it gives a profile or one error with a position."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from osbuild import paths
from osbuild.errors import Error
from osbuild.profile.load import Loaded, load
from tests.test_profile import BASE, LEAF

VALID = [LEAF.replace("../base", "base").encode(), BASE.encode()] + [
    path.read_bytes() for path in sorted(paths.PROFILES.glob("*.yaml"))
]
SCRAPS = [
    b"\t",
    b"\n",
    b"\0",
    b": ",
    b"- ",
    b"[",
    b"{",
    b"}",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!binary ",
    b'"',
    b"'",
    b"|",
    b"\\",
]
SCRAPS += [
    b"? ",
    b"%YAML 1.1\n",
    b"---\n",
    b"...\n",
    b"~",
    b"yes",
    b"0o7",
    b"1:30",
    b"\xff",
    "\u2028".encode(),
    b'"\\U00110000"',
]


def outcome(data: bytes, folder: Path) -> Loaded | Error:
    path = folder / "node.yaml"
    path.write_bytes(data)
    (folder / "base.yaml").write_text(BASE)
    (folder / "tree").mkdir(exist_ok=True)
    (folder / "app.yaml").touch()
    try:
        return load(path)
    except Error as error:
        assert re.fullmatch(r".+\.yaml:[1-9][0-9]*:[1-9][0-9]*", error.where or "")
        assert error.hint and error.message and "\n" not in error.message
        return error


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid profile with a few places changed."""
    data = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 12)))
        data = data[:begin] + draw(st.sampled_from(SCRAPS) | st.binary(max_size=4)) + data[end:]
    return data


RELAXED = settings(suppress_health_check=list(HealthCheck))


@settings(RELAXED, max_examples=400)
@given(data=mutated())
def test_a_damaged_profile_is_a_profile_or_one_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome(data, tmp_path_factory.getbasetemp())


@settings(RELAXED, max_examples=300)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
@example(data=b"[" * 5000)
@example(data=b"- " * 5000)
@example(data=b"a: " * 5000)
@example(data=b"{a: " * 5000)
@example(data=b"? " * 5000)
@example(data=b"name: a\nversion: 1.0.0\nextends: " + b"x" * 5000)
@example(data=b"name: a\nversion: 1.0.0\noverlays: [" + b"x" * 5000 + b"]")
@example(data=b'name: a\nversion: 1.0.0\nextends: "a\\0b"')
@example(data=b"name: a\nversion: 1.0.0\nextends: ~nobody/x")
@example(data=b"name: a\nversion: 1.0.0\nkubernetes: {config: {a: 0x" + b"f" * 9999 + b"}}")
@example(data=b"name: a\nversion: 1.0.0\nkubernetes: {config: {a: " + b"9" * 9999 + b".0}}")
@example(data=b"name: a\nversion: 1.0.0\ndisk: {slot: " + b"9" * 9999 + b" MiB}")
def test_any_bytes_are_a_profile_or_one_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome(data, tmp_path_factory.getbasetemp())


def test_the_valid_profiles_of_these_tests_are_valid(tmp_path: Path) -> None:
    for data in VALID:
        assert isinstance(outcome(data, tmp_path), Loaded)

"""Whatever a profile holds, it is accepted, and so is its seed, or gives one clear error: never a traceback.

EDGE_FUZZ=10000 runs that many examples of each test.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from osbuild.config.key_table import Kind, every_key
from osbuild.config.load import LoadedProfile, load_profile
from osbuild.host import paths
from osbuild.seed.render import render_seed
from osbuild.shared.errors import Error
from tests.config.test_profile import BASE, LEAF
from tests.support.examples import examples

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


def outcome(data: bytes, folder: Path) -> LoadedProfile | Error:
    path = folder / "node.yaml"
    path.write_bytes(data)
    (folder / "base.yaml").write_text(BASE)
    (folder / "tree").mkdir(exist_ok=True)
    (folder / "app.yaml").write_text("apiVersion: v1\nkind: List\n")
    try:
        loaded = load_profile(path)
    except Error as error:
        assert re.fullmatch(r".+\.yaml:[1-9][0-9]*:[1-9][0-9]*", error.where or "")
        assert error.hint and error.message and "\n" not in error.message
        return error
    try:
        render_seed(loaded.profile, "edge-1", folder=folder)
    except Error as error:  # what only a seed needs, such as its secrets
        assert error.hint and error.message and "\n" not in error.message
    return loaded


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid profile with a few places changed."""
    data = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 12)))
        data = data[:begin] + draw(st.sampled_from(SCRAPS) | st.binary(max_size=4)) + data[end:]
    return data


# Values of one key's form are wrong for another, and some are right alone but wrong together.
VALUES: list[Any] = [
    None, True, 0, -1, 65536, 2**70, 1.5, "", " ", "~", "a", "A", "root", "sudo", "default", "a b", 'a="b', "--", "..",
    "/", "a/b/c", "x" * 70, "x" * 300, "é", "\u2028", "0", "1.2.3", "v1.36.3", "v1.35.0+k3s1", "upstream", "k3s",
    "server", "agent", "armv7", "16 MiB", "9999999 GiB", "10.42.0.0/16", "10.42.0.5/33", "0.0.0.0/0", "fd00::/56",
    "fe80::1%eth0", "192.0.2.5", "192.0.2.5/24", "192.0.2.1,2001:db8::1", "https://a:6443", "https://[::1",
    "https://:0",
    "https://a:b@c", "a=b:NoSchedule", ":NoSchedule", "kubernetes.io/a", "example.com/a", "file:", "file:/", "env:A",
    "file:\0", "US/Eastern", "Europe/Berlin", "root=/dev/sda", "en*", "[", "52:54:00:12:34:56", "demo", "./tree",
    "app.yaml", "edge-debian", "kubernetes", "base", [], {}, [[]], [{}], {"a": None}, ["a", "a"],
]  # fmt: skip
CONFIG = ["cluster-cidr", "service-cidr", "cluster-dns", "node-ip", "advertise-address", "kubelet-arg", "tls-san",
          "agent-token", "datastore-endpoint", "cluster_cidr", "tls-sans", "a", "", "a+"]  # fmt: skip
NAMES = [
    "a",
    "kubernetes.io/a",
    "node-role.kubernetes.io/a",
    "net.ipv4.ip_forward",
    "net/ipv4/ip_forward",
    "a/b/c",
    "+",
]


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A valid profile in which a few keys have other values, of their own form or of another key's."""
    tree = yaml.safe_load(draw(st.sampled_from(VALID)))
    value = st.sampled_from(VALUES) | st.lists(st.sampled_from(VALUES), max_size=2)
    for _ in range(draw(st.integers(1, 4))):
        dotted, key = draw(st.sampled_from(list(every_key())))
        names = CONFIG if dotted == "kubernetes.config" else NAMES
        chosen = st.dictionaries(st.sampled_from(names), value, max_size=2) if key.shape.kind is Kind.MAP else value
        place = tree
        *above, last = dotted.split(".")
        for step in above:
            name = step.removesuffix("[]")
            inner = place.get(name)
            if step.endswith("[]"):
                inner = inner if isinstance(inner, list) and inner else [{"name": "a"}]
                place[name] = inner
                inner = inner[0]
            elif not isinstance(inner, dict):
                place[name] = inner = {}
            if not isinstance(inner, dict):
                break
            place = inner
        else:
            place[last + draw(st.sampled_from(["", "", "", "+"]))] = draw(chosen)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()


RELAXED = settings(suppress_health_check=list(HealthCheck), deadline=None)


@settings(RELAXED, max_examples=examples(400))
@given(data=mutated())
def test_a_damaged_profile_is_a_profile_or_one_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome(data, tmp_path_factory.getbasetemp())


@settings(RELAXED, max_examples=examples(300))
@given(data=altered())
def test_an_altered_profile_is_a_profile_or_one_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome(data, tmp_path_factory.getbasetemp())


@settings(RELAXED, max_examples=examples(300))
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
        assert isinstance(outcome(data, tmp_path), LoadedProfile)

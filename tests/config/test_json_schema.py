"""The published JSON Schema, and that the loader takes just what it takes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from osbuild.cli import cli
from osbuild.config import document
from osbuild.config.json_schema import make_schema
from osbuild.config.key_table import INTEGERS, Key, Kind, Shape, keys_of
from osbuild.config.metadata import SecretRef, Size
from osbuild.config.profile import Profile
from osbuild.config.values import check_structure
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error
from tests.support.examples import examples


def ecma_pattern(validator: Any, pattern: str, instance: Any, whole: Any) -> Iterator[ValidationError]:
    """ECMA 262, which JSON Schema goes by, matches `$` at the very end only; Python also before a last line break."""
    if isinstance(instance, str) and not re.search(re.sub(r"\$(?=\)?$)", r"\\Z", pattern), instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


Validator = extend(Draft202012Validator, {"pattern": ecma_pattern})  # type: ignore[no-untyped-call]
VALIDATOR = Validator(make_schema())


def accepted(value: Any, path: Path) -> bool:
    """Whether the loader takes `value` as the content of one file."""
    path.write_text(yaml.safe_dump(value))
    try:
        check_structure(document.read_document(path))
    except Error as error:
        assert re.fullmatch(re.escape(str(path)) + r":\d+:\d+", error.where or "")
        return False
    return True


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(make_schema())


def test_the_command_prints_it() -> None:
    assert json.loads(CliRunner().invoke(cli, ["profile", "schema"]).output) == make_schema()


def test_every_key_of_the_schema_is_described_and_no_other_allowed() -> None:
    def walk(block: dict[str, Any]) -> None:
        if "properties" in block and "additionalProperties" in block:
            assert block["additionalProperties"] is False
            for inner in block["properties"].values():
                assert inner["description"]
                walk(inner)
                walk(inner.get("items", {}))

    walk(make_schema())


@pytest.mark.parametrize("path", sorted(paths.PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles_validate(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


HEAD = {"name": "a", "version": "1.0.0"}


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (HEAD, True),
        ({"name": "a"}, False),
        ({"name": "a", "extends": "b"}, True),
        ({"name": "a", "extends": ["b", "c"]}, True),
        ({"version": "1.0.0"}, False),
        ({**HEAD, "packages+": ["vim"]}, True),
        ({**HEAD, "packages+": None}, False),
        ({**HEAD, "packages": [], "packages+": ["vim"]}, False),
        ({**HEAD, "users": [{"name": "a", "groups+": ["b"]}]}, False),
        ({**HEAD, "kernel": {"modules+": ["vxlan"]}}, True),
        ({**HEAD, "hostname": None}, True),
        ({**HEAD, "hostname": "a\n"}, False),
        ({**HEAD, "kernel": None}, False),
        ({**HEAD, "kubernetes": {"config": {"a": [1, "x", {"b": None}]}}}, True),
        ({**HEAD, "health": {"deadline": True}}, False),
    ],
)
def test_what_loader_and_schema_say_of_examples(tmp_path: Path, value: Any, good: bool) -> None:
    assert VALIDATOR.is_valid(value) is good
    if "extends" not in value:  # there is nothing to extend here
        assert accepted(value, tmp_path / "a.yaml") is good


# Values that are right for a key, and values that may be wrong anywhere; the loader must judge like the schema.

ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()),
    st.text(max_size=8),
    st.sampled_from(
        ["yes", "1.10", "~", "null", "2024-01-01", "1:30", "0x10", "", " ", "a\n", "a\u2028b", "\x85", "=", "<<"]
    ),
    st.lists(st.text(max_size=4), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(*INTEGERS), st.floats(-1e6, 1e6), st.text(max_size=6)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def fitting(shape: Shape, key: Key) -> st.SearchStrategy[Any]:
    """Values that the key takes, most of the time."""
    if shape.kind is Kind.BLOCK:
        return blocks(shape.types[0])
    if shape.kind is Kind.LIST and shape.item:
        return st.lists(fitting(shape.item, key), max_size=2)
    if shape.kind is Kind.MAP and shape.item:
        names = st.from_regex(key.limits["keys"]) if "keys" in key.limits else st.text(max_size=4)
        return st.dictionaries(names, fitting(shape.item, key), max_size=2)
    if shape.kind is Kind.ANY:
        return JSON
    return st.one_of([leaves(kind, key) for kind in shape.types])


def leaves(kind: type, key: Key) -> st.SearchStrategy[Any]:
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(key.limits.get("minimum", -5) - 1, key.limits.get("maximum", 2**64) + 1)
    if kind is Size:
        return st.builds("{}{}".format, st.integers(0, 10**7), st.sampled_from([" MiB", "GiB", " GB", "", " MiB "]))
    if kind is SecretRef:
        return st.sampled_from(["file:a", "env:A", "env:", "env:A B", "file:", "FILE:a", "secret"])
    if key.choices:
        return st.sampled_from([*(str(choice) for choice in key.choices), "other"])
    if kind is Architecture:
        return st.sampled_from([str(name) for name in Architecture])
    if "pattern" in key.limits:
        return st.from_regex(key.limits["pattern"])
    return st.text(max_size=8)


def blocks(block: type) -> st.SearchStrategy[dict[str, Any]]:
    required: dict[str, st.SearchStrategy[Any]] = {}
    free: dict[str, st.SearchStrategy[Any]] = {}
    for key in keys_of(block).values():
        value = st.one_of(fitting(key.shape, key), fitting(key.shape, key), ANYTHING)
        (required if key.required else free)[key.name] = value
        if key.shape.kind is Kind.LIST:
            free[f"{key.name}+"] = value
    return st.fixed_dictionaries(required, optional=free)


@settings(max_examples=examples(500), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_loader_and_schema_agree(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "agree.yaml"
    key = data.draw(st.sampled_from(list(keys_of(Profile).values())))
    value = {**HEAD, key.name: data.draw(st.one_of(fitting(key.shape, key), ANYTHING))}
    assert accepted(value, path) == VALIDATOR.is_valid(value), list(VALIDATOR.iter_errors(value))


@settings(max_examples=examples(150), suppress_health_check=list(HealthCheck))
@given(value=blocks(Profile))
def test_loader_and_schema_agree_on_whole_profiles(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "whole.yaml"
    assert accepted(value, path) == VALIDATOR.is_valid(value), list(VALIDATOR.iter_errors(value))

"""The YAML files of a seed, read as cloud-init reads them."""

import json
from dataclasses import dataclass
from typing import Any

from osbuild.shared.pyyaml import import_yaml, loader
from osbuild.shared.quoting import quoted
from osbuild.shared.seed.refused import SeedRefused

SHOWN = 10  # warnings about repeated keys


def decode_text(data: bytes, name: str) -> str:
    """Decode UTF-8, without a byte order mark. Raises `SeedRefused`."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SeedRefused(f"{name} is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise SeedRefused(f"{name}, line {line}, column {column}: not UTF-8") from None
    if (offset := text.find("\0")) >= 0:
        raise SeedRefused(f"{name}, {position_at(text, offset)}: not text")
    return text


def position_at(text: str, index: int) -> str:
    """Line and column, from 1, of the character at `index`."""
    return f"line {text.count(chr(10), 0, index) + 1}, column {index - text.rfind(chr(10), 0, index)}"


@dataclass(frozen=True)
class YamlDocument:
    """The value of a YAML document, and a warning for each repeated key.

    `odd_key` is the position of the first key that is not text in YAML; empty if there is none. `size` is the number of
    values.
    """

    value: Any
    repeated: tuple[str, ...] = ()
    odd_key: str = ""
    size: int = 0

    def mapping(self, name: str) -> dict[str, Any]:
        """The value, which must be a mapping or missing. Raises `SeedRefused`."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            kind = type(self.value).__name__
            raise SeedRefused(f"{name}, line 1, column 1: expected `key: value` lines, not a {kind}")
        return {str(key): entry for key, entry in self.value.items()}


def load_yaml(text: str, name: str) -> YamlDocument:
    """Parse a YAML document. Raises `SeedRefused` with line and column."""
    yaml = import_yaml()
    try:
        yaml_loader = loader()(text)
        value = yaml_loader.get_single_data()
    except yaml.reader.ReaderError as error:
        raise SeedRefused(
            f"{name}, {position_at(text, error.position)}: this character is not allowed in YAML"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SeedRefused(f"{name}{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise SeedRefused(f"{name}: {' '.join(str(error).split())}") from None
    repeated = []
    for key, mark in yaml_loader.repeated:
        at = f"{name}, line {mark.line + 1}, column {mark.column + 1}"
        repeated.append(f"{at}: {quoted(key)} appears twice; only the last one has an effect")
    more = [f"{name}: {len(repeated) - SHOWN} more keys appear twice"] if len(repeated) > SHOWN else []
    odd = f"line {yaml_loader.odd.line + 1}, column {yaml_loader.odd.column + 1}" if yaml_loader.odd else ""
    return YamlDocument(value, (*repeated[:SHOWN], *more), odd, yaml_loader.count)


def load_mapping(text: str, name: str) -> dict[str, Any]:
    """Parse a document that must be a mapping or empty. Raises `SeedRefused`."""
    return load_yaml(text, name).mapping(name)


def write_yaml(value: Any) -> str:
    """A value as YAML. Every type of YAML can be written."""
    return str(import_yaml().safe_dump(value, allow_unicode=True, sort_keys=False))


def write_json_bytes(value: Any) -> bytes:
    """A value as JSON, which is also YAML. Types that JSON does not have become text."""
    return json.dumps(value, default=str).encode() + b"\n"

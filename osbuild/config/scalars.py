"""Reads scalars of a profile as the types in the table, with an error for each mismatch."""

import difflib
import math
import re
from collections.abc import Iterable

from osbuild.config import key_table
from osbuild.config.document import List, Map, Node, Scalar, quote_text
from osbuild.config.key_table import Key
from osbuild.config.metadata import Size
from osbuild.shared.errors import Error
from osbuild.shared.sizes import parse_size

# A private key, a URL with a user, or a name that suggests a secret.
SECRET = re.compile(r"PRIVATE KEY|//.*@|(token|secret|pass\w*|pwd|key)=", re.IGNORECASE)
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")


def find_nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the most similar of `known`, or None. `cutoff`, from 0 to 1, is the required similarity."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def is_private(key: Key, node: Node) -> bool:
    """Whether a message must not quote the value, because it may be a misplaced secret."""
    return "secret" in key.limits or (isinstance(node, Scalar) and bool(SECRET.search(node.text)))


def describe_node(node: Node, *, private: bool = False) -> str:
    """Describe a node for a message."""
    if isinstance(node, Map):
        return "a block of keys"
    if isinstance(node, List):
        return "a list"
    if node.kind == "null":
        return "nothing"
    if private:
        return "another value"
    return quote_text(node.text) if node.kind == "string" else f"the {node.kind} {quote_text(node.text)}"


def mismatch_error(node: Node, path: str, expected: str, hint: str, *, private: bool = False) -> Error:
    """Return the error for a value of the wrong kind or form."""
    name = path.removesuffix(".") or "the profile"
    message = f"found {describe_node(node, private=private)} for `{name}`, expected {expected}"
    return Error(message, where=str(node.mark), hint=hint)


def quote_advice(node: Scalar) -> str:
    """Return the hint for a value that YAML does not parse as text."""
    return f'write "{node.text[:60]}" in quotes if it is meant as text'


def read_text(node: Node, path: str, secret: bool, number: bool, private: bool) -> str:
    """Read a string; `secret` and `number` say what else the key takes, `private` that it must not be quoted."""
    expected = "a reference to a secret" if secret else "a text or a whole number" if number else "a text"
    if not isinstance(node, Scalar):
        raise mismatch_error(node, path, expected, "write one value")
    if node.kind == "string":
        return node.text
    if secret:
        hint = "write `file:PATH`, or `env:NAME` for a variable"
    elif node.kind == "null":
        hint = "write a value, or remove the line"
    elif number and node.kind == "boolean":
        hint = f"write {1 if node.text.lower() in ('yes', 'on', 'true', 'y') else 0}, or the word in quotes"
    else:
        hint = quote_advice(node)
    raise mismatch_error(node, path, expected, hint, private=private)


def read_boolean(node: Node, path: str) -> bool:
    """Read `true` or `false`, without YAML 1.1's other words for booleans."""
    if isinstance(node, Scalar) and node.kind == "boolean" and node.text in TRUE + FALSE:
        return node.text in TRUE
    word = node.text.lower() if isinstance(node, Scalar) else ""
    boolean = {"yes": "true", "on": "true", "1": "true", "true": "true"}.get(word)
    boolean = boolean or ("false" if word in ("no", "off", "0", "false") else None)
    hint = f"write `{boolean}`" if boolean else "write `true` or `false`, without quotes"
    raise mismatch_error(node, path, "`true` or `false`", hint)


def read_integer(node: Node, path: str) -> int:
    """Read a whole number of at most 64 bits, in decimal digits."""
    if isinstance(node, Scalar) and node.kind == "number" and re.fullmatch(r"-?(0|[1-9][0-9]{0,19})", node.text):
        number = int(node.text)
        if key_table.INTEGERS[0] <= number <= key_table.INTEGERS[1]:
            return number
    # `010` is eight and `1:30` ninety in YAML 1.1, and something else in 1.2.
    hint = "write it with the digits 0 to 9 only, without a leading zero"
    if isinstance(node, Scalar) and node.kind == "string":
        hint = "remove the quotes and every unit" if re.match(r"[0-9]", node.text) else "write a number"
    raise mismatch_error(node, path, "a whole decimal number of at most 64 bits", hint)


def read_decimal(node: Scalar, path: str) -> float:
    """Read a finite decimal number."""
    try:
        number = float(node.text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise mismatch_error(node, path, "a decimal number", quote_advice(node))
    return number


def check_limits(number: int, node: Node, key: Key, path: str) -> int:
    """Check a number against the key's limits."""
    least, most = key.limits.get("minimum", key_table.INTEGERS[0]), key.limits.get("maximum", key_table.INTEGERS[1])
    if not least <= number <= most:
        hint = f"write {least if number < least else most}, the nearest that is allowed"
        raise mismatch_error(node, path, f"a number from {least} to {most}", hint)
    return number


def read_size(node: Node, path: str) -> Size:
    """Read a whole number of MiB or GiB."""
    text = node.text if isinstance(node, Scalar) else ""
    size = parse_size(text)
    if isinstance(node, Scalar) and node.kind == "string" and re.fullmatch(key_table.SIZE, text) and size:
        return Size(int(size))
    hint = "write `512 MiB` or `2 GiB`"
    mebi = math.ceil(size / 2**20) if size else 0
    if 0 < mebi < 10**6:
        hint = f"write `{key_table.format_size(mebi * 2**20)}`"
    raise mismatch_error(node, path, "a size in MiB or GiB", hint)


def choice_error(text: str, node: Node, key: Key, path: str) -> Error:
    """Return the error for a value that is not one of the key's choices."""
    *most, last = key.choices
    suggestion = find_nearest(_ALIASES.get(text.lower(), text.lower()), key.choices)
    hint = f"did you mean `{suggestion}`?" if suggestion else f"`{path}` is: {key.limits['help']}"
    return mismatch_error(node, path, f"{', '.join(most)} or {last}" if most else f"`{last}`", hint)


_ALIASES = {
    "amd64": "x86_64",
    "x64": "x86_64",
    "aarch64": "arm64",
    "arm": "armv7",
    "armhf": "armv7",
    "k8s": "upstream",
    "worker": "agent",
    "master": "server",
    "control-plane": "server",
}

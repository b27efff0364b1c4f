"""The options of a command as one object, and sizes as options."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from osbuild.config.secrets import resolve_secret
from osbuild.shared.errors import UsageError
from osbuild.shared.sizes import parse_size

REFERENCE = "file:PATH|env:NAME"  # how help texts show a reference to a secret

Options = TypeVar("Options")
Result = TypeVar("Result")


def as_object(kind: type[Options]) -> Callable[[Callable[[Options], Result]], Callable[..., Result]]:
    """Pass a command its options as one `kind`, a dataclass whose fields have the names of the options."""

    def decorate(function: Callable[[Options], Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def call(**values: object) -> Result:
            return function(kind(**values))

        return call

    return decorate


def resolve_option(option: str, reference: str) -> str:
    """Return the secret that an option refers to. Raises `UsageError` if it is no reference, and `Error`."""
    kind, _, name = reference.partition(":")
    if kind not in ("file", "env") or not name:  # the text may be the secret itself, so it is not shown
        hint = f"write {option} file:PATH or {option} env:NAME: everybody on this machine can read arguments"
        raise UsageError(f"{option} is not a reference to a secret", hint=hint)
    return resolve_secret(reference, folder=Path())


def parse_size_option(text: str) -> int:
    """Parse a size to bytes, see `parse_size`; units are MiB and GiB. Raises `click.BadParameter`."""
    amount = int(parse_size(text) or 0)
    if amount <= 0 or re.search("[kt]", text, re.IGNORECASE):
        raise click.BadParameter(f"{text!r} is not a size such as 512M or 2G")
    return amount

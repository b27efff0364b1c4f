"""The options of a command as one object, for commands with many options."""

import functools
from collections.abc import Callable
from typing import TypeVar

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

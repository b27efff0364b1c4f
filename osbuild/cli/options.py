"""The options of a command as one object, where there are many."""

import functools
from collections.abc import Callable
from typing import TypeVar

Options = TypeVar("Options")
Result = TypeVar("Result")


def as_object(kind: type[Options]) -> Callable[[Callable[[Options], Result]], Callable[..., Result]]:
    """Have a command get its options as the dataclass `kind`, whose fields have the options' names."""

    def decorate(function: Callable[[Options], Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def call(**given: object) -> Result:
            return function(kind(**given))

        return call

    return decorate

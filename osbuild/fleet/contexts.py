"""The update servers that a user has logged in to, by name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from osbuild.host.output import write_output
from osbuild.shared.errors import Error

PRIVATE = 0o600
DEFAULT = "default"
LOGIN = "log in first: edge-osbuild fleet login URL --ca FILE --token file:PATH"


@dataclass(frozen=True)
class FleetContext:
    """A server, the certificate of its authority as PEM, and the access token of the user."""

    url: str
    authority: str
    token: str


@dataclass(frozen=True)
class FleetContexts:
    """All servers of a user by name. `current` is the name of the one that is used if no other is named, or empty."""

    current: str
    contexts: Mapping[str, FleetContext]

    def find_context(self, name: str | None) -> FleetContext:
        """Return the context `name`, or the current one. Raises `Error`."""
        if not self.contexts:
            raise Error("no update server is known", hint=LOGIN)
        chosen = name or self.current
        if not chosen:
            hint = f"`edge-osbuild fleet context use NAME` chooses one of {', '.join(sorted(self.contexts))}"
            raise Error("no update server is the current one", hint=f"{hint}; --context NAME is for one command")
        if chosen not in self.contexts:
            hint = (
                f"choose one of {', '.join(sorted(self.contexts))}, or log in with `edge-osbuild fleet login NAME URL`"
            )
            raise Error(f"no update server has the name {chosen}", hint=hint)
        return self.contexts[chosen]

    def with_context(self, name: str, context: FleetContext) -> "FleetContexts":
        """Return the contexts with one that is new or has changed, and becomes the current one."""
        return FleetContexts(name, {**self.contexts, name: context})

    def without_context(self, name: str) -> "FleetContexts":
        """Return the contexts without `name`. None is the current one if it was `name`. Raises `Error`."""
        self.find_context(name)
        rest = {other: context for other, context in self.contexts.items() if other != name}
        return FleetContexts("" if self.current == name else self.current, rest)

    def with_current(self, name: str) -> "FleetContexts":
        """Return the contexts with `name` as the current one. Raises `Error`."""
        self.find_context(name)
        return replace(self, current=name)


def contexts_file() -> Path:
    """Return the file that stores the contexts (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edge-osbuild/fleet.json"


def load_contexts() -> FleetContexts:
    """Return the stored contexts, none if there is no file. Raises `Error`."""
    path = contexts_file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=FleetContexts)
    except FileNotFoundError:
        return FleetContexts(DEFAULT, {})
    except (OSError, msgspec.DecodeError) as error:
        raise Error(
            f"the stored login can't be read: {error}", where=str(path), hint=f"remove it, and {LOGIN}"
        ) from error


def save_contexts(contexts: FleetContexts) -> None:
    """Store the contexts for later commands, readable by the user only. Raises `Error`."""
    path = contexts_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_output(path, msgspec.json.encode(contexts), mode=PRIVATE)

"""Completion of names in the shell: devices, rollouts, bundles and contexts of `edge-osbuild fleet`."""

import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from osbuild.fleet.client import FleetClient
    from osbuild.fleet.contexts import FleetContexts

CONTEXT = "edge_osbuild.fleet_context"
ENVIRONMENT = "EDGE_FLEET_CONTEXT"
LIMIT = 2.0  # seconds until the shell offers nothing


def complete_contexts(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the contexts that begin with `incomplete`."""

    def find() -> list[CompletionItem]:
        contexts = _load().contexts
        return [CompletionItem(name, help=contexts[name].url) for name in sorted(contexts)]

    return _matching(find, incomplete)


def complete_devices(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the devices of the update server that begin with `incomplete`."""

    def find() -> list[CompletionItem]:
        return [CompletionItem(name) for name in _client(ctx).find_names(incomplete)]

    return _matching(find, incomplete)


def complete_rollouts(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the rollouts that begin with `incomplete`."""

    def find() -> list[CompletionItem]:
        return [CompletionItem(view.name, help=f"{view.bundle}, {view.state}") for view in _client(ctx).list_rollouts()]

    return _matching(find, incomplete)


def complete_tokens(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the access tokens in use that begin with `incomplete`. Only administrators may list them."""

    def find() -> list[CompletionItem]:
        views = _client(ctx).list_access_tokens()
        return [CompletionItem(view.name, help=view.role) for view in views if view.revoked is None]

    return _matching(find, incomplete)


def complete_bundles(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the numbers of bundles that begin with `incomplete`."""

    def find() -> list[CompletionItem]:
        views = _client(ctx).list_bundles()
        return [
            CompletionItem(str(view.id), help=f"{view.name} {view.version} for {view.compatible}") for view in views
        ]

    return _matching(find, incomplete)


def _matching(find: Callable[[], Iterable[CompletionItem]], incomplete: str) -> list[CompletionItem]:
    """Return what `find` returns within the time limit; nothing if it fails, because the shell shows no errors."""
    items: list[CompletionItem] = []

    def collect() -> None:
        try:
            items.extend(find())
        except Exception:  # the server does not answer, nobody has logged in, …
            items.clear()

    thread = threading.Thread(target=collect, daemon=True)  # the end of the process does not wait for it
    thread.start()
    thread.join(LIMIT)
    return [] if thread.is_alive() else [item for item in items if item.value.startswith(incomplete)]


def _load() -> "FleetContexts":
    from osbuild.fleet.contexts import load_contexts

    return load_contexts()


def _client(ctx: click.Context) -> "FleetClient":
    from osbuild.fleet.client import FleetClient

    name = ctx.meta.get(CONTEXT) or os.environ.get(ENVIRONMENT)
    return FleetClient(_load().find_context(name))

"""What root does for the unprivileged part: installs what was ordered, and finds out how it has ended."""

from osbuild.agent.errors import Busy, Problem
from osbuild.agent.fleet.action_record import load_record
from osbuild.agent.fleet.cancellation import CancellationWatch, OrderCancelled
from osbuild.agent.fleet.identity import copy_identity, server_token
from osbuild.agent.fleet.order import InstallOrder, take_order
from osbuild.agent.fleet.outcome import (
    WRITTEN,
    UpdateOutcome,
    find_outcome,
    is_switched,
    load_outcome,
    order_reference,
    store_outcome,
)
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.system import System
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.install import InstallOptions, install_bundle


def find_last_outcome(system: System) -> None:
    """Store how the recorded action has ended, if it has. Runs before the unprivileged part. Raises `OSError`."""
    record = load_record(system)
    outcome = record and find_outcome(system, record.order, only_download=record.only_download)
    if outcome:
        store_outcome(system, outcome)


def install_ordered(context: UpdateContext, settings: FleetSettings) -> None:
    """Install what was ordered, and reboot into it. A failure is stored for the report. Raises `Problem`, `OSError`."""
    system = context.system
    order = take_order(system, settings.server)
    # An order is repeated until it has an outcome, for example if the slot was committed late.
    if order is None or load_outcome(system, order.id):
        return
    outcome = find_outcome(system, order.id, only_download=order.only_download)
    if outcome is not None:
        store_outcome(system, outcome)
    if outcome is not None or is_switched(system, order.id):
        return
    switch = not order.only_download
    token = server_token(system, settings)
    tls = None if token else copy_identity(system, settings)
    reference = order_reference(order.id)
    watch = CancellationWatch(system, order.id)
    try:
        with watch:
            options = InstallOptions(
                switch=switch, tls=tls, token=token, reference=reference, before_switch=watch.begin_switch
            )
            install_bundle(context, order.url, options)
        if order.only_download:
            store_outcome(system, UpdateOutcome(order.id, True, (WRITTEN,)))
    except (OrderCancelled, KeyboardInterrupt):
        if not watch.cancelled:
            raise
        print("edge-agent: the update server has cancelled the update", flush=True)
    except Busy:
        raise  # the order is repeated
    except (Problem, OSError) as error:
        store_outcome(system, UpdateOutcome(order.id, False, describe_failure(order, error)))
        raise


def describe_failure(order: InstallOrder, error: Problem | OSError) -> tuple[str, ...]:
    """Return why an order was not carried out, as lines."""
    if isinstance(error, Problem):
        return tuple(line for line in (str(error), error.hint) if line)
    return (f"{order.url}: {error.strerror or error}",)

"""What root does for the unprivileged part: installs what was ordered, and finds out how it has ended."""

from osbuild.agent.errors import Problem
from osbuild.agent.fleet.action_record import load_record
from osbuild.agent.fleet.identity import identity_files
from osbuild.agent.fleet.order import InstallOrder, take_order
from osbuild.agent.fleet.outcome import (
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
    # Orders are repeated until they have an outcome, so one may come while its update is installed.
    if order is None or load_outcome(system, order.id) or is_switched(system, order.id):
        return
    switch = not order.only_download
    options = InstallOptions(switch=switch, tls=identity_files(system), reference=order_reference(order.id))
    try:
        install_bundle(context, order.url, options)
        if order.only_download:
            store_outcome(system, UpdateOutcome(order.id, True, ("the other slot is written",)))
    except (Problem, OSError) as error:
        store_outcome(system, UpdateOutcome(order.id, False, describe_failure(order, error)))
        raise


def describe_failure(order: InstallOrder, error: Problem | OSError) -> tuple[str, ...]:
    """Return why an order was not carried out, as lines."""
    if isinstance(error, Problem):
        return tuple(line for line in (str(error), error.hint) if line)
    return (f"{order.url}: {error.strerror or error}",)

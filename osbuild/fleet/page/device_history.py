"""What the page shows of one device: its certificate, and what it has reported about its actions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from osbuild.fleet.actions import newest_actions
from osbuild.fleet.maintenance import MaintenanceSchedule
from osbuild.fleet.states import ActionKind, ActionState
from osbuild.fleet.tables import bundles, certificates, reports, rollouts

MOST_ACTIONS, MOST_REPORTS = 30, 50  # that are shown


@dataclass(frozen=True)
class ShownReport:
    """A report of a device. `time` is in milliseconds since 1970."""

    time: int
    execution: str
    messages: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ShownAction:
    """An action of a device with its newest reports, the newest first."""

    id: int
    bundle: str
    rollout: str | None
    kind: ActionKind
    state: ActionState
    created: int
    ended: int | None
    maintenance: MaintenanceSchedule | None
    reports: Sequence[ShownReport]


def read_actions(connection: Connection, device: int) -> list[ShownAction]:
    """Return the newest actions of a device, the newest first."""
    shown = []
    for action in newest_actions(connection, device, MOST_ACTIONS):
        bundle = connection.execute(
            select(bundles.c.name, bundles.c.version).where(bundles.c.id == action.bundle)
        ).one()
        rollout = connection.execute(select(rollouts.c.name).where(rollouts.c.id == action.rollout)).scalar()
        shown.append(
            ShownAction(
                id=action.id, bundle=f"{bundle.name} {bundle.version}", rollout=rollout, kind=action.kind,
                state=action.state, created=action.created, ended=action.ended,
                maintenance=action.maintenance, reports=read_reports(connection, action.id),
            )
        )  # fmt: skip
    return shown


def read_reports(connection: Connection, action: int) -> list[ShownReport]:
    """Return the newest reports about an action, the newest first. Those that say the same again are left out."""
    chosen = select(reports.c.time, reports.c.execution, reports.c.messages).where(reports.c.action == action)
    shown: list[ShownReport] = []
    for row in connection.execute(chosen.order_by(reports.c.id.desc()).limit(MOST_REPORTS)):
        report = ShownReport(row.time, row.execution, json.loads(row.messages))
        if not shown or (report.execution, report.messages) != (shown[-1].execution, shown[-1].messages):
            shown.append(report)
    return shown


def explain_failure(shown: Sequence[ShownAction]) -> ShownReport | None:
    """Return the last report about the newest action if that has failed."""
    if shown and shown[0].state is ActionState.failed and shown[0].reports:
        return shown[0].reports[0]
    return None


def find_certificate_end(connection: Connection, device: int) -> int | None:
    """Return when the certificate of a device ends, in milliseconds since 1970; None if it has none."""
    valid = certificates.c.revoked.is_(None) & (certificates.c.device == device)
    chosen = select(certificates.c.expires).where(valid).order_by(certificates.c.expires.desc()).limit(1)
    return connection.execute(chosen).scalar()

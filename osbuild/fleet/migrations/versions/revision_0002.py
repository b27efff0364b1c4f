"""Maintenance windows, deadlines, leases, tags, deleted bundles, requests of operators, history of versions.

Members of a group have a standing, and the group has their numbers; before, it had only that of forgiven failures.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("devices", sa.Column("tags", sa.Text, nullable=False, server_default="{}"))
    change_bundles()
    op.add_column("rollouts", sa.Column("maintenance", sa.Text))
    op.add_column("rollout_groups", sa.Column("deadline", sa.Integer))
    op.add_column("rollout_members", sa.Column("standing", sa.String(16), nullable=False, server_default="pending"))
    op.add_column("rollout_members", sa.Column("due", sa.BigInteger))
    op.create_index("members_by_standing", "rollout_members", ["standing", "due"])
    set_standings(op.get_bind())
    op.add_column("actions", sa.Column("maintenance", sa.Text))
    op.add_column("actions", sa.Column("lease", sa.BigInteger))
    op.add_column("actions", sa.Column("fetched", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("leases", "actions", ["lease"])
    forgive_members(op.get_bind())
    op.drop_column("rollout_groups", "forgiven")
    count_members(op.get_bind())
    op.add_column("devices", sa.Column("open_request", ROW))
    create_requests()
    op.create_table(
        "version_counts",
        sa.Column("time", sa.BigInteger, primary_key=True),
        sa.Column("version", sa.String(128), primary_key=True),
        sa.Column("devices", sa.Integer, nullable=False),
    )


def change_bundles() -> None:
    """Let bundles for different boards have the same name and version. Only SQLite has databases of revision 1."""
    unique = sa.UniqueConstraint("name", "version", "compatible")
    names = {"uq": "%(table_name)s_%(column_0_name)s"}  # of a constraint without one
    with op.batch_alter_table("bundles", table_args=(unique,), naming_convention=names) as table:
        table.drop_constraint("bundles_name", type_="unique")
        table.add_column(sa.Column("deleted", sa.BigInteger))


def create_requests() -> None:
    """Create the tables of operators' requests to devices."""
    op.create_table(
        "requests",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("device", ROW, sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.BigInteger),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_index("requests_by_state", "requests", ["state", "expires"])
    op.create_index("requests_of_device", "requests", ["device", "state"])
    op.create_table(
        "request_archives",
        sa.Column("request", ROW, sa.ForeignKey("requests.id"), primary_key=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_index("archives_by_age", "request_archives", ["created"])


def set_standings(connection: sa.Connection) -> None:
    """Store what the newest actions of members have come to."""
    connection.execute(sa.text(
        "UPDATE rollout_members SET standing = (SELECT CASE WHEN state IN ('finished', 'downloaded') THEN 'succeeded' "
        "WHEN state IN ('failed', 'cancelled') THEN state ELSE 'pending' END FROM actions WHERE id = action) "
        "WHERE action IS NOT NULL"
    ))  # fmt: skip


def count_members(connection: sa.Connection) -> None:
    """Store how many members of each group have each standing."""
    for standing in ("pending", "overdue", "succeeded", "failed", "cancelled", "forgiven"):
        op.add_column("rollout_groups", sa.Column(standing, sa.Integer, nullable=False, server_default="0"))
        connection.execute(sa.text(
            f"UPDATE rollout_groups SET {standing} = (SELECT count(*) FROM rollout_members "
            f"WHERE \"group\" = rollout_groups.id AND standing = '{standing}')"
        ))  # fmt: skip


def forgive_members(connection: sa.Connection) -> None:
    """Forgive as many members of each group as were counted: those that had failed first."""
    groups = connection.execute(sa.text("SELECT id, forgiven FROM rollout_groups WHERE forgiven > 0")).all()
    chosen = sa.text(
        "SELECT device, rollout FROM rollout_members WHERE \"group\" = :group AND standing IN ('failed', 'cancelled') "
        "ORDER BY (SELECT ended FROM actions WHERE id = action), action LIMIT :count"
    )
    changed = sa.text("UPDATE rollout_members SET standing = 'forgiven' WHERE device = :device AND rollout = :rollout")
    for group, count in groups:
        for device, rollout in connection.execute(chosen, {"group": group, "count": count}).all():
            connection.execute(changed, {"device": device, "rollout": rollout})

"""The tables of the versions before there were revisions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NAME = sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "access_tokens",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("hash", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )
    op.create_table(
        "audit",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_table(
        "bundles",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("compatible", sa.String(256), nullable=False),
        sa.Column("filename", sa.String(256), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("sha1", sa.String(40), nullable=False),
        sa.Column("md5", sa.String(32), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", "version"),
    )
    op.create_table(
        "devices",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("name", NAME, nullable=False, unique=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("enrolled", sa.BigInteger),
        sa.Column("enrolment_token", ROW),
        sa.Column("key_hash", sa.LargeBinary(32)),
        sa.Column("decommissioned", sa.BigInteger),
        sa.Column("last_seen", sa.BigInteger),
        sa.Column("address", sa.String(64)),
        sa.Column("token_hash", sa.LargeBinary(32)),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("attributes_wanted", sa.Boolean, nullable=False),
        sa.Column("auto_confirm", sa.Boolean, nullable=False),
        sa.Column("installed_action", ROW),
    )
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("hash", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("note", sa.String(128), nullable=False),
        sa.Column("device", sa.String(256)),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("device", ROW, sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )
    op.create_index("certificates_of_device", "certificates", ["device"])
    op.create_table(
        "rollouts",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("bundle", ROW, sa.ForeignKey("bundles.id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("weight", sa.Integer, nullable=False),
        sa.Column("confirm", sa.Boolean, nullable=False),
        sa.Column("selection", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("start", sa.BigInteger),
        sa.Column("ended", sa.BigInteger),
    )
    op.create_index("rollouts_by_state", "rollouts", ["state"])
    op.create_table(
        "sessions",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("token", ROW, sa.ForeignKey("access_tokens.id"), nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "actions",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("device", ROW, sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("bundle", ROW, sa.ForeignKey("bundles.id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("weight", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.BigInteger),
        sa.Column("rollout", ROW, sa.ForeignKey("rollouts.id")),
    )
    op.create_index("active_actions", "actions", ["device", "active"])
    op.create_table(
        "rollout_groups",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("rollout", ROW, sa.ForeignKey("rollouts.id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("success", sa.Integer, nullable=False),
        sa.Column("error", sa.Integer, nullable=False),
        sa.Column("pause", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started", sa.BigInteger),
        sa.Column("forgiven", sa.Integer, nullable=False),
        sa.UniqueConstraint("rollout", "position"),
    )
    op.create_table(
        "reports",
        sa.Column("id", ROW, primary_key=True),
        sa.Column("action", ROW, sa.ForeignKey("actions.id"), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("execution", sa.String(16), nullable=False),
        sa.Column("finished", sa.String(8), nullable=False),
        sa.Column("code", sa.Integer),
        sa.Column("messages", sa.Text, nullable=False),
    )
    op.create_index("reports_of_action", "reports", ["action", "id"])
    op.create_table(
        "rollout_members",
        sa.Column("device", ROW, sa.ForeignKey("devices.id"), primary_key=True),
        sa.Column("rollout", ROW, sa.ForeignKey("rollouts.id"), primary_key=True),
        sa.Column("group", ROW, sa.ForeignKey("rollout_groups.id"), nullable=False),
        sa.Column("action", ROW, sa.ForeignKey("actions.id")),
    )
    op.create_index("members_of_group", "rollout_members", ["group"])

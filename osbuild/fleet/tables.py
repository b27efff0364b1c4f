"""The tables of the update server's database. Times are in milliseconds since 1970, in UTC.

A change needs a new revision in `migrations/versions`, see there.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from osbuild.fleet.states import MemberStanding

LONGEST_ID = 256
"""the length of the longest id of a device, in characters, as in hawkBit"""

# SQLite numbers rows only if the type is INTEGER, which has 64 bits there.
ROW = BigInteger().with_variant(Integer, "sqlite")
# Python compares names too: both in the order of code points.
NAME = String(LONGEST_ID).with_variant(String(LONGEST_ID, collation="C"), "postgresql")
PENDING = MemberStanding.pending.value

metadata = MetaData()

devices = Table(
    "devices",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),  # DDI: controllerId
    Column("created", BigInteger, nullable=False),
    Column("enrolled", BigInteger),  # when it last got a certificate for a token
    Column("enrolment_token", ROW),  # the id of that token
    Column("key_hash", LargeBinary(32)),  # SHA-256 of the public key of that certificate
    Column("decommissioned", BigInteger),  # when; it is not accepted any more
    Column("last_seen", BigInteger),
    Column("address", String(64)),
    Column("token_hash", LargeBinary(32)),  # SHA-256 of its target token
    Column("attributes", Text, nullable=False, default="{}"),  # JSON, string -> string
    Column("tags", Text, nullable=False, default="{}", server_default="{}"),  # JSON, string -> string, set by people
    Column("attributes_wanted", Boolean, nullable=False, default=True),
    Column("auto_confirm", Boolean, nullable=False, default=False),
    Column("installed_action", ROW),  # the last action that succeeded
    Column("open_request", ROW),  # the id of the operator's request that it is told
)

bundles = Table(
    "bundles",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("version", String(128), nullable=False),
    Column("compatible", String(256), nullable=False),
    Column("filename", String(256), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("sha1", String(40), nullable=False),
    Column("md5", String(32), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("deleted", BigInteger),  # when; it is not offered any more, and its file is deleted
    UniqueConstraint("name", "version", "compatible"),  # the bundles of several boards have the same name
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("bundle", ForeignKey("bundles.id"), nullable=False),
    Column("kind", String(16), nullable=False),  # of its actions
    Column("weight", Integer, nullable=False),
    Column("confirm", Boolean, nullable=False),
    Column("selection", Text, nullable=False),  # JSON, see `rollout.selection`
    Column("maintenance", Text),  # JSON, see `maintenance`
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),  # why it is paused or aborted
    Column("created", BigInteger, nullable=False),
    Column("start", BigInteger),  # when it starts by itself
    Column("ended", BigInteger),
    Index("rollouts_by_state", "state"),
)

rollout_groups = Table(
    "rollout_groups",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("rollout", ForeignKey("rollouts.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("success", Integer, nullable=False),  # percent
    Column("error", Integer, nullable=False),  # percent
    Column("pause", Integer, nullable=False),  # seconds
    Column("deadline", Integer),  # seconds, for each device
    Column("state", String(16), nullable=False),
    Column("started", BigInteger),
    # How many of its devices have each standing, see `rollout.standing`.
    *(Column(standing, Integer, nullable=False, default=0, server_default="0") for standing in MemberStanding),
    UniqueConstraint("rollout", "position"),
)

rollout_members = Table(
    "rollout_members",
    metadata,
    Column("device", ForeignKey("devices.id"), primary_key=True),
    Column("rollout", ForeignKey("rollouts.id"), primary_key=True),
    Column("group", ForeignKey("rollout_groups.id"), nullable=False),
    Column("action", ForeignKey("actions.id")),  # the newest one; none before the group starts
    Column("standing", String(16), nullable=False, default=PENDING, server_default=PENDING),
    Column("due", BigInteger),  # when its action is overdue
    Index("members_of_group", "group"),
    Index("members_by_standing", "standing", "due"),
)

actions = Table(
    "actions",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("device", ForeignKey("devices.id"), nullable=False),
    Column("bundle", ForeignKey("bundles.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(32), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Column("rollout", ForeignKey("rollouts.id")),
    Column("maintenance", Text),  # JSON, see `maintenance`
    Column("lease", BigInteger),  # until when the device counts as one that downloads, see `downloads`
    Column("fetched", Boolean, nullable=False, default=False, server_default=false()),  # it has begun to download
    Index("leases", "lease"),
    # Two actions of one device may be active: one that is being cancelled, and the one after it.
    Index("active_actions", "device", "active"),
)

reports = Table(
    "reports",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("action", ForeignKey("actions.id"), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("state", String(32), nullable=False),  # of the action after the report
    Column("execution", String(16), nullable=False),  # DDI: status.execution
    Column("finished", String(8), nullable=False),  # DDI: status.result.finished
    Column("code", Integer),
    Column("messages", Text, nullable=False),  # JSON, a list of strings
    Index("reports_of_action", "action", "id"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("device", ForeignKey("devices.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("who", String(128), nullable=False),
    Column("document", Text, nullable=False),  # signed, as PEM
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Column("details", Text, nullable=False, default="[]"),  # JSON, a list of strings
    Index("requests_of_device", "device", "state"),
    Index("requests_by_state", "state", "expires"),
)

request_archives = Table(
    "request_archives",
    metadata,
    Column("request", ForeignKey("requests.id"), primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),  # diagnostics, as .tar.gz
    Index("archives_by_age", "created"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),  # hexadecimal
    Column("device", ForeignKey("devices.id"), nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("revoked", BigInteger),  # when
    Index("certificates_of_device", "device"),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("hash", LargeBinary(32), nullable=False, unique=True),
    Column("note", String(128), nullable=False),
    Column("device", String(LONGEST_ID)),  # the only device that may use it
    Column("uses_left", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("hash", LargeBinary(32), nullable=False, unique=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("token", ForeignKey("access_tokens.id"), nullable=False),
    Column("expires", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", ROW, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("address", String(64), nullable=False),
    Column("event", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", Text, nullable=False),  # JSON
)

version_counts = Table(
    "version_counts",
    metadata,
    Column("time", BigInteger, primary_key=True),  # the begin of an hour
    Column("version", String(128), primary_key=True),
    Column("devices", Integer, nullable=False),
)

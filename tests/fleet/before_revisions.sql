-- The tables as the versions before revisions made them, with a rollout of five devices, two of whose failures are forgiven.
CREATE TABLE access_tokens (
    id INTEGER NOT NULL,
    hash BLOB NOT NULL,
    name VARCHAR(128) NOT NULL,
    role VARCHAR(16) NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    revoked BIGINT,
    PRIMARY KEY (id),
    UNIQUE (hash),
    UNIQUE (name)
);
CREATE TABLE actions (
    id INTEGER NOT NULL,
    device INTEGER NOT NULL,
    bundle INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    state VARCHAR(32) NOT NULL,
    active BOOLEAN NOT NULL,
    weight INTEGER NOT NULL,
    created BIGINT NOT NULL,
    ended BIGINT,
    rollout INTEGER,
    PRIMARY KEY (id),
    FOREIGN KEY(device) REFERENCES devices (id),
    FOREIGN KEY(bundle) REFERENCES bundles (id),
    FOREIGN KEY(rollout) REFERENCES rollouts (id)
);
CREATE TABLE audit (
    id INTEGER NOT NULL,
    time BIGINT NOT NULL,
    who VARCHAR(128) NOT NULL,
    address VARCHAR(64) NOT NULL,
    event VARCHAR(64) NOT NULL,
    subject VARCHAR(256) NOT NULL,
    details TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE bundles (
    id INTEGER NOT NULL,
    name VARCHAR(128) NOT NULL,
    version VARCHAR(128) NOT NULL,
    compatible VARCHAR(256) NOT NULL,
    filename VARCHAR(256) NOT NULL,
    size BIGINT NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    sha1 VARCHAR(40) NOT NULL,
    md5 VARCHAR(32) NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name, version)
);
CREATE TABLE certificates (
    serial VARCHAR(40) NOT NULL,
    device INTEGER NOT NULL,
    expires BIGINT NOT NULL,
    revoked BIGINT,
    PRIMARY KEY (serial),
    FOREIGN KEY(device) REFERENCES devices (id)
);
CREATE TABLE devices (
    id INTEGER NOT NULL,
    name VARCHAR(256) NOT NULL,
    created BIGINT NOT NULL,
    enrolled BIGINT,
    enrolment_token INTEGER,
    key_hash BLOB,
    decommissioned BIGINT,
    last_seen BIGINT,
    address VARCHAR(64),
    token_hash BLOB,
    attributes TEXT NOT NULL,
    attributes_wanted BOOLEAN NOT NULL,
    auto_confirm BOOLEAN NOT NULL,
    installed_action INTEGER,
    PRIMARY KEY (id),
    UNIQUE (name)
);
CREATE TABLE enrolment_tokens (
    id INTEGER NOT NULL,
    hash BLOB NOT NULL,
    note VARCHAR(128) NOT NULL,
    device VARCHAR(256),
    uses_left INTEGER NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    revoked BIGINT,
    PRIMARY KEY (id),
    UNIQUE (hash)
);
CREATE TABLE reports (
    id INTEGER NOT NULL,
    action INTEGER NOT NULL,
    time BIGINT NOT NULL,
    state VARCHAR(32) NOT NULL,
    execution VARCHAR(16) NOT NULL,
    finished VARCHAR(8) NOT NULL,
    code INTEGER,
    messages TEXT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(action) REFERENCES actions (id)
);
CREATE TABLE rollout_groups (
    id INTEGER NOT NULL,
    rollout INTEGER NOT NULL,
    position INTEGER NOT NULL,
    success INTEGER NOT NULL,
    error INTEGER NOT NULL,
    pause INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    started BIGINT,
    forgiven INTEGER NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (rollout, position),
    FOREIGN KEY(rollout) REFERENCES rollouts (id)
);
CREATE TABLE rollout_members (
    device INTEGER NOT NULL,
    rollout INTEGER NOT NULL,
    "group" INTEGER NOT NULL,
    action INTEGER,
    PRIMARY KEY (device, rollout),
    FOREIGN KEY(device) REFERENCES devices (id),
    FOREIGN KEY(rollout) REFERENCES rollouts (id),
    FOREIGN KEY("group") REFERENCES rollout_groups (id),
    FOREIGN KEY(action) REFERENCES actions (id)
);
CREATE TABLE rollouts (
    id INTEGER NOT NULL,
    name VARCHAR(128) NOT NULL,
    bundle INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    weight INTEGER NOT NULL,
    confirm BOOLEAN NOT NULL,
    selection TEXT NOT NULL,
    state VARCHAR(16) NOT NULL,
    reason TEXT NOT NULL,
    created BIGINT NOT NULL,
    start BIGINT,
    ended BIGINT,
    PRIMARY KEY (id),
    UNIQUE (name),
    FOREIGN KEY(bundle) REFERENCES bundles (id)
);
CREATE TABLE sessions (
    hash BLOB NOT NULL,
    token INTEGER NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (hash),
    FOREIGN KEY(token) REFERENCES access_tokens (id)
);
CREATE INDEX rollouts_by_state ON rollouts (state);
CREATE INDEX certificates_of_device ON certificates (device);
CREATE INDEX active_actions ON actions (device, active);
CREATE INDEX members_of_group ON rollout_members ("group");
CREATE INDEX reports_of_action ON reports (action, id);
INSERT INTO bundles VALUES (1, 'os', '1', 'c', 'f', 1, 'a', 'b', 'c', 1);
INSERT INTO rollouts VALUES (1, 'winter', 1, 'forced', 1000, 0, '{"version": "1*"}', 'running', '', 1, NULL, NULL);
INSERT INTO rollout_groups VALUES (1, 1, 1, 100, 1, 0, 'running', 1, 2);
INSERT INTO devices VALUES (1, 'd1', 1, 1, 1, NULL, NULL, 1, '', NULL, '{}', 0, 0, NULL);
INSERT INTO actions VALUES (1, 1, 1, 'forced', 'failed', 0, 1000, 1, 50, 1);
INSERT INTO rollout_members VALUES (1, 1, 1, 1);
INSERT INTO devices VALUES (2, 'd2', 1, 1, 1, NULL, NULL, 1, '', NULL, '{}', 0, 0, NULL);
INSERT INTO actions VALUES (2, 2, 1, 'forced', 'cancelled', 0, 1000, 1, 30, 1);
INSERT INTO rollout_members VALUES (2, 1, 1, 2);
INSERT INTO devices VALUES (3, 'd3', 1, 1, 1, NULL, NULL, 1, '', NULL, '{}', 0, 0, NULL);
INSERT INTO actions VALUES (3, 3, 1, 'forced', 'failed', 0, 1000, 1, 40, 1);
INSERT INTO rollout_members VALUES (3, 1, 1, 3);
INSERT INTO devices VALUES (4, 'd4', 1, 1, 1, NULL, NULL, 1, '', NULL, '{}', 0, 0, NULL);
INSERT INTO actions VALUES (4, 4, 1, 'forced', 'finished', 0, 1000, 1, 10, 1);
INSERT INTO rollout_members VALUES (4, 1, 1, 4);
INSERT INTO devices VALUES (5, 'd5', 1, 1, 1, NULL, NULL, 1, '', NULL, '{}', 0, 0, NULL);
INSERT INTO actions VALUES (5, 5, 1, 'forced', 'running', 1, 1000, 1, NULL, 1);
INSERT INTO rollout_members VALUES (5, 1, 1, 5);

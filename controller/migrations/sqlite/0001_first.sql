-- Only BIGINT, TEXT and BLOB columns; ids are UUIDs as text; times are Unix milliseconds.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- A revoked host stays as a tombstone: its id is never used again.
CREATE TABLE hosts (
    id                       TEXT   NOT NULL PRIMARY KEY,
    name                     TEXT   NOT NULL,
    labels                   TEXT   NOT NULL,
    joined_ms                BIGINT NOT NULL,
    last_seen_ms             BIGINT NOT NULL DEFAULT 0,
    revoked_ms               BIGINT,
    revoke_reason            TEXT   NOT NULL DEFAULT '',
    facts                    BLOB,
    agent_version            TEXT   NOT NULL DEFAULT '',
    clock_offset_ms          BIGINT NOT NULL DEFAULT 0,
    certificate_not_after_ms BIGINT NOT NULL DEFAULT 0,
    -- The sequence of the newest order to this host.
    order_sequence           BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX hosts_living_name ON hosts (name) WHERE revoked_ms IS NULL;

CREATE TABLE join_tokens (
    -- SHA-256 of the secret; the secret itself is never stored.
    hash       BLOB   NOT NULL PRIMARY KEY,
    host_name  TEXT   NOT NULL,
    labels     TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    created_by TEXT   NOT NULL,
    expires_ms BIGINT NOT NULL,
    used_ms    BIGINT,
    used_by    TEXT REFERENCES hosts (id)
);

CREATE TABLE targets (
    host_id    TEXT   NOT NULL REFERENCES hosts (id),
    name       TEXT   NOT NULL,
    ready      BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    -- An encoded sternway.v1.Target.
    body       BLOB   NOT NULL,
    PRIMARY KEY (host_id, name)
);

-- Outlives both the target and the agent's own bounded list.
CREATE TABLE revisions (
    host_id      TEXT   NOT NULL REFERENCES hosts (id),
    target       TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    number       BIGINT NOT NULL,
    image_id     TEXT   NOT NULL,
    image_digest TEXT   NOT NULL,
    stored_ms    BIGINT NOT NULL,
    -- An encoded sternway.v1.Revision.
    body         BLOB   NOT NULL,
    PRIMARY KEY (host_id, target, id)
);
CREATE INDEX revisions_image_id ON revisions (image_id);
CREATE INDEX revisions_image_digest ON revisions (image_digest);

CREATE TABLE marks (
    host_id   TEXT   NOT NULL REFERENCES hosts (id),
    target    TEXT   NOT NULL,
    revision  TEXT   NOT NULL,
    mark      BIGINT NOT NULL,
    reason    TEXT   NOT NULL,
    marked_by TEXT   NOT NULL,
    marked_ms BIGINT NOT NULL,
    PRIMARY KEY (host_id, target, revision)
);

CREATE TABLE plans (
    id         TEXT   NOT NULL PRIMARY KEY,
    host_id    TEXT   NOT NULL REFERENCES hosts (id),
    made_for   TEXT   NOT NULL,
    scope      BIGINT NOT NULL,
    swap       BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    -- An encoded sternway.v1.Plan.
    body       BLOB   NOT NULL
);
CREATE INDEX plans_expiry ON plans (expires_ms);

CREATE TABLE rollouts (
    id          TEXT   NOT NULL PRIMARY KEY,
    request_id  TEXT   NOT NULL UNIQUE,
    plan_id     TEXT   NOT NULL UNIQUE,
    operator    TEXT   NOT NULL,
    reason      TEXT   NOT NULL,
    state       BIGINT NOT NULL,
    -- The wave that runs now, from 0.
    wave        BIGINT NOT NULL,
    created_ms  BIGINT NOT NULL,
    finished_ms BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX rollouts_created ON rollouts (created_ms);

CREATE TABLE orders (
    id               TEXT   NOT NULL PRIMARY KEY,
    rollout_id       TEXT   NOT NULL REFERENCES rollouts (id),
    wave             BIGINT NOT NULL,
    host_id          TEXT   NOT NULL REFERENCES hosts (id),
    host_name        TEXT   NOT NULL,
    target           TEXT   NOT NULL,
    sequence         BIGINT NOT NULL,
    -- A sternway.v1.OrderState and, where it is finished, a sternway.v1.Outcome.
    state            BIGINT NOT NULL,
    outcome          BIGINT NOT NULL DEFAULT 0,
    problem          BLOB,
    running_revision TEXT   NOT NULL DEFAULT '',
    last_event       BIGINT NOT NULL DEFAULT 0,
    -- 1: a check that looked at the change passed.
    proven           BIGINT NOT NULL DEFAULT 0,
    created_ms       BIGINT NOT NULL,
    sent_ms          BIGINT NOT NULL DEFAULT 0,
    accepted_ms      BIGINT NOT NULL DEFAULT 0,
    finished_ms      BIGINT NOT NULL DEFAULT 0,
    not_after_ms     BIGINT NOT NULL,
    -- An encoded sternway.v1.Plan, and the order's own bytes as they travel.
    plan             BLOB   NOT NULL,
    sealed           BLOB   NOT NULL
);
CREATE INDEX orders_of_rollout ON orders (rollout_id, wave);
CREATE UNIQUE INDEX orders_sequence ON orders (host_id, sequence);
-- One order at a time for a target; 4 is ORDER_STATE_FINISHED.
CREATE UNIQUE INDEX orders_one_active ON orders (host_id, target) WHERE state <> 4;
CREATE INDEX orders_active ON orders (state, not_after_ms) WHERE state <> 4;

CREATE TABLE order_events (
    order_id TEXT   NOT NULL REFERENCES orders (id),
    number   BIGINT NOT NULL,
    -- An encoded sternway.v1.OrderEvent.
    body     BLOB   NOT NULL,
    PRIMARY KEY (order_id, number)
);

CREATE TABLE deployments (
    id          TEXT   NOT NULL PRIMARY KEY,
    host_id     TEXT   NOT NULL REFERENCES hosts (id),
    target      TEXT   NOT NULL,
    recorded_ms BIGINT NOT NULL,
    -- An encoded sternway.v1.Deployment.
    body        BLOB   NOT NULL
);
CREATE INDEX deployments_of_target ON deployments (host_id, target, recorded_ms);

CREATE TABLE record (
    number        BIGINT NOT NULL PRIMARY KEY,
    at_ms         BIGINT NOT NULL,
    actor         TEXT   NOT NULL,
    action        TEXT   NOT NULL,
    subject       TEXT   NOT NULL,
    body          TEXT   NOT NULL,
    previous_hash BLOB   NOT NULL,
    hash          BLOB   NOT NULL
);
CREATE TRIGGER record_never_changes BEFORE UPDATE ON record
BEGIN
    SELECT RAISE(ABORT, 'the record is append-only');
END;
CREATE TRIGGER record_never_shrinks BEFORE DELETE ON record
BEGIN
    SELECT RAISE(ABORT, 'the record is append-only');
END;

-- Kept apart from the entries, so that a tail that was cut off is noticed.
CREATE TABLE record_head (
    id     BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    number BIGINT NOT NULL,
    hash   BLOB   NOT NULL
);

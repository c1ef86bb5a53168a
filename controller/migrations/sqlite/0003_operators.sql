-- Certificates of operators: what was issued, and what was revoked.
CREATE TABLE operators (
    -- Hexadecimal, lower-case.
    serial        TEXT   NOT NULL PRIMARY KEY,
    -- Empty, as is the role: revoked by its serial, and issued before there was this table.
    name          TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    issued_ms     BIGINT NOT NULL,
    not_after_ms  BIGINT NOT NULL,
    revoked_ms    BIGINT,
    revoke_reason TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX operators_name ON operators (name);
CREATE INDEX operators_revoked ON operators (not_after_ms) WHERE revoked_ms IS NOT NULL;

-- Whatever was issued to that name until then is refused, also where it is not listed.
CREATE TABLE operator_names_revoked (
    name       TEXT   NOT NULL PRIMARY KEY,
    revoked_ms BIGINT NOT NULL,
    reason     TEXT   NOT NULL
);

-- Orders that hosts told the end of and that nothing is known of: they came after the copy that this database is.
CREATE TABLE orders_unknown (
    id       TEXT   NOT NULL PRIMARY KEY,
    host_id  TEXT   NOT NULL REFERENCES hosts (id),
    noted_ms BIGINT NOT NULL
);

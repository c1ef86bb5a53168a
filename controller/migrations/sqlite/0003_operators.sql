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

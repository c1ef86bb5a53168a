-- 1: finished here because its host was not heard of again; what its agent says later still counts.
ALTER TABLE orders ADD COLUMN lost BIGINT NOT NULL DEFAULT 0;
CREATE INDEX orders_lost ON orders (host_id) WHERE lost = 1;

-- What is asked again and again reads no more than it answers.
CREATE INDEX hosts_name ON hosts (name);
CREATE INDEX join_tokens_unused ON join_tokens (expires_ms) WHERE used_ms IS NULL;

-- Targets that are no longer looked after. Their revisions are kept for a while, then deleted.
CREATE TABLE removed_targets (
    host_id    TEXT   NOT NULL REFERENCES hosts (id),
    target     TEXT   NOT NULL,
    removed_ms BIGINT NOT NULL,
    PRIMARY KEY (host_id, target)
);
CREATE INDEX removed_targets_since ON removed_targets (removed_ms);
INSERT INTO removed_targets (host_id, target, removed_ms)
    SELECT DISTINCT r.host_id, r.target, CAST(strftime('%s', 'now') AS BIGINT) * 1000
    FROM revisions r
    WHERE NOT EXISTS (
        SELECT 1 FROM targets t WHERE t.host_id = r.host_id AND t.name = r.target);

-- 1: finished here because its host was not heard of again; what its agent says later still counts.
ALTER TABLE orders ADD COLUMN lost BIGINT NOT NULL DEFAULT 0;
CREATE INDEX orders_lost ON orders (host_id) WHERE lost = 1;
-- 3 is OUTCOME_UNDONE, 6 is OUTCOME_NEEDS_HUMAN.
CREATE INDEX orders_failed ON orders (host_id, target, sequence) WHERE outcome IN (3, 6);

-- What is asked again and again reads no more than it answers.
CREATE INDEX hosts_name ON hosts (name);
CREATE INDEX join_tokens_unused ON join_tokens (expires_ms) WHERE used_ms IS NULL;

-- 0: its target is no longer looked after, and a person marked it.
ALTER TABLE revisions ADD COLUMN listed BIGINT NOT NULL DEFAULT 1;

-- 1 is OUTCOME_RESTORED, 2 is OUTCOME_UNCHANGED. With all that is asked for, so that no order itself is read.
CREATE INDEX orders_passed ON orders (host_id, target, running_revision, finished_ms, state, outcome)
    WHERE outcome IN (1, 2);

-- Forgetting: whole months of partitioned tables, batches of the others, and once a day.

-- Drops one month of a partitioned table, if it ended so long ago that it need not be kept. Answers
-- whether there was one. Waits two seconds at most for whoever reads: the next day is the retry.
CREATE FUNCTION drop_partition(parent text, starts_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    child text := parent || '_' || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMM');
    kept interval := (SELECT t.kept_for FROM partitioned_tables t WHERE t.name = parent);
    ends_at timestamptz := (date_trunc('month', starts_at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    IF kept IS NULL THEN
        RAISE EXCEPTION 'not a table whose months are dropped: %', parent;
    END IF;
    -- Whatever is kept, the current month and those to come are in use.
    IF ends_at > now() - greatest(kept, interval '0') THEN
        RAISE EXCEPTION 'a month that must be kept: %', child;
    END IF;
    IF to_regclass(child) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', child);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION drop_partition FROM public;
GRANT EXECUTE ON FUNCTION drop_partition TO spotplane_app;

-- Deletes up to `batch` rows whose time is before an instant, as the caller may; null is never before.
CREATE FUNCTION delete_before(target regclass, time_column name, before timestamptz, batch int)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    deleted bigint;
BEGIN
    EXECUTE format('DELETE FROM %1$s WHERE ctid = ANY(ARRAY(SELECT ctid FROM %1$s WHERE %2$I < $1 LIMIT $2))',
                   target, time_column) USING before, batch;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;
REVOKE ALL ON FUNCTION delete_before FROM public;
GRANT EXECUTE ON FUNCTION delete_before TO spotplane_app;

-- Jobs that run once a day, and the day for which each ran last.
CREATE TABLE daily_jobs (
    name text PRIMARY KEY,
    day  date NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON daily_jobs TO spotplane_app;

GRANT DELETE ON pool_interruptions TO spotplane_app;

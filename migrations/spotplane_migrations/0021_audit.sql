-- What administrators did is kept for seven years, all other audit rows for a year, and both go by dropping
-- tables: nobody deletes a row. So a month of the trail has two parts, one for each.

-- A month of a table that names `apart_values` is split by `apart_column`: rows with one of the values lie in
-- its part `…_apart` and are kept for `kept_apart_for`, all others in `…_rest` and kept for `kept_for`.
ALTER TABLE partitioned_tables
    ADD COLUMN apart_column   name,
    ADD COLUMN apart_values   text[],
    ADD COLUMN kept_apart_for interval,
    ADD CONSTRAINT partitioned_tables_apart_check
        CHECK (num_nonnulls(apart_column, apart_values, kept_apart_for) IN (0, 3) AND kept_apart_for >= kept_for);

CREATE OR REPLACE FUNCTION ensure_partition(parent text, starts_at timestamptz, ends_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    child text := parent || '_' || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMM');
    ours partitioned_tables;
BEGIN
    SELECT * INTO ours FROM partitioned_tables t WHERE t.name = parent;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'not a partitioned table of ours: %', parent;
    END IF;
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF ours.apart_column IS NULL THEN
        EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                       child, parent, starts_at, ends_at);
        RETURN true;
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L) PARTITION BY LIST (%I)',
                   child, parent, starts_at, ends_at, ours.apart_column);
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES IN (%s)', child || '_apart', child,
                   (SELECT string_agg(quote_literal(v), ', ') FROM unnest(ours.apart_values) AS v));
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I DEFAULT', child || '_rest', child);
    RETURN true;
END
$$;

-- Drops what need not be kept of a month: all of it, or of a split one the rest. Answers whether there was
-- any. Waits two seconds at most for whoever reads: the next day is the retry.
CREATE OR REPLACE FUNCTION drop_partition(parent text, starts_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    child text := parent || '_' || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMM');
    ours partitioned_tables;
    ends_at timestamptz := (date_trunc('month', starts_at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    SELECT * INTO ours FROM partitioned_tables t WHERE t.name = parent;
    IF ours.kept_for IS NULL THEN
        RAISE EXCEPTION 'not a table whose months are dropped: %', parent;
    END IF;
    -- Whatever is kept, the current month and those to come are in use.
    IF ends_at > now() - greatest(ours.kept_for, interval '0') THEN
        RAISE EXCEPTION 'a month that must be kept: %', child;
    END IF;
    IF ends_at > now() - ours.kept_apart_for THEN
        child := child || '_rest';
    END IF;
    IF to_regclass(child) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', child);
    RETURN true;
END
$$;

-- Splitting needs the column in the key, so the months there are begin anew.
LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE;  -- servers go on writing meanwhile
CREATE TEMPORARY TABLE audit_before ON COMMIT DROP AS TABLE audit_logs;
CREATE TEMPORARY TABLE audit_months ON COMMIT DROP AS
SELECT c.relname AS name,
       to_timestamp(substring(c.relname FROM '_([0-9]{6})$'), 'YYYYMM')::timestamp AT TIME ZONE 'UTC' AS starts_at
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'audit_logs'::regclass;
DO $$
DECLARE
    month name;
BEGIN
    FOR month IN SELECT name FROM audit_months LOOP
        EXECUTE format('DROP TABLE %I', month);
    END LOOP;
END
$$;
ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey;
ALTER TABLE audit_logs ADD CONSTRAINT audit_logs_pkey PRIMARY KEY (occurred_at, id, actor_type);
CREATE INDEX audit_logs_id ON audit_logs (id);
CREATE INDEX audit_logs_correlation ON audit_logs (correlation_id);

UPDATE partitioned_tables
   SET kept_for = '365 days', apart_column = 'actor_type', apart_values = '{admin}', kept_apart_for = '2557 days'
 WHERE name = 'audit_logs';
SELECT ensure_partition('audit_logs', starts_at, (starts_at AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC')
  FROM audit_months
 ORDER BY starts_at;
INSERT INTO audit_logs (occurred_at, id, actor_type, actor_id, actor_name, action, resource_type, resource_id,
                        tenant_id, before, after, result, correlation_id, ip, user_agent)
SELECT occurred_at, id, actor_type, actor_id, actor_name, action, resource_type, resource_id,
       tenant_id, before, after, result, correlation_id, ip, user_agent
  FROM audit_before;

-- The owner empties no part of it either.
CREATE TRIGGER audit_logs_not_truncated BEFORE TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

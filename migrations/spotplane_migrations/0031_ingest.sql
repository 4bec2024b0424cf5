-- Times of many rows come as Unix microseconds: numbers cost the driver a tenth of what moments do.
CREATE FUNCTION from_micros(micros bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    -- Seconds as a float still tell microseconds apart, and are rounded to them.
    SELECT to_timestamp(micros / 1e6::float8)
$$;
GRANT EXECUTE ON FUNCTION from_micros TO spotplane_app;

-- Whoever adds records adds to the sums of their days: a dozen rows tell which tenants' usage changed, where
-- the records themselves were thousands to be looked through.
DROP TRIGGER usage_records_added ON usage_records;
CREATE TRIGGER usage_days_added AFTER INSERT ON usage_rollup_daily
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_usage_revisions();
CREATE TRIGGER usage_days_added_to AFTER UPDATE ON usage_rollup_daily
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_usage_revisions();

-- What answers about usage rest on, as numbers that every change raises in its own transaction: an answer
-- that was kept, or one of a replica, is as good as a new one while they are the same. The database raises
-- them itself, so that no writer can forget it.

-- A tenant's usage. A writer raises the number of its own slot, so that two seldom wait for each other; all
-- slots together are the revision. Slots 0 to 7 are those of backends, 8 that of mending.
CREATE TABLE usage_revisions (
    tenant_id uuid NOT NULL,
    slot      int NOT NULL,
    revision  bigint NOT NULL,
    PRIMARY KEY (tenant_id, slot)
) WITH (fillfactor = 50);
CALL isolate_tenants('usage_revisions');
GRANT SELECT, INSERT, UPDATE ON usage_revisions TO spotplane_app;

-- In the order of tenants, so that two batches for the same tenants wait in one direction only.
CREATE FUNCTION raise_usage_revisions() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_revisions AS r (tenant_id, slot, revision)
    SELECT c.tenant_id, pg_backend_pid() % 8, 1
      FROM (SELECT DISTINCT tenant_id FROM changed) AS c
     ORDER BY c.tenant_id
    ON CONFLICT (tenant_id, slot) DO UPDATE SET revision = r.revision + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER usage_records_added AFTER INSERT ON usage_records
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_usage_revisions();

-- Answers call keys by their names.
CREATE FUNCTION raise_usage_revision_of_key() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_revisions AS r (tenant_id, slot, revision)
    VALUES (NEW.tenant_id, pg_backend_pid() % 8, 1)
    ON CONFLICT (tenant_id, slot) DO UPDATE SET revision = r.revision + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER api_keys_renamed AFTER UPDATE ON api_keys
    FOR EACH ROW WHEN ((OLD.name, OLD.key_prefix) IS DISTINCT FROM (NEW.name, NEW.key_prefix))
    EXECUTE FUNCTION raise_usage_revision_of_key();

-- One row. Raised when a model or a region is called differently, whoever uses it.
CREATE TABLE catalog_names (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    revision  bigint NOT NULL
);
INSERT INTO catalog_names (revision) VALUES (1);
GRANT SELECT, UPDATE ON catalog_names TO spotplane_app;

CREATE FUNCTION raise_catalog_names() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE catalog_names SET revision = revision + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER models_renamed AFTER UPDATE ON models
    FOR EACH ROW WHEN ((OLD.name, OLD.family, OLD.type) IS DISTINCT FROM (NEW.name, NEW.family, NEW.type))
    EXECUTE FUNCTION raise_catalog_names();
CREATE TRIGGER models_deleted AFTER DELETE ON models
    FOR EACH ROW EXECUTE FUNCTION raise_catalog_names();
CREATE TRIGGER regions_renamed AFTER UPDATE ON regions
    FOR EACH ROW WHEN ((OLD.name, OLD.code) IS DISTINCT FROM (NEW.name, NEW.code))
    EXECUTE FUNCTION raise_catalog_names();

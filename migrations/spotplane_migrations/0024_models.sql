-- A model is deleted softly, so that usage of it keeps its name and its prices; its name may be used again.
ALTER TABLE models ADD COLUMN deleted_at timestamptz;
ALTER TABLE models DROP CONSTRAINT models_name_key;
CREATE UNIQUE INDEX models_name_key ON models (name) WHERE deleted_at IS NULL;
-- Late usage names models that are deleted as well.
CREATE INDEX models_name ON models (name);

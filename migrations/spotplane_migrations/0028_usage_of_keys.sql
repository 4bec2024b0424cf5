-- Budgets of keys, and whatever else asks for one key's hours, read that key's and not all of its tenant's. The
-- columns never change, so sums that grow are still updated in place.
CREATE INDEX usage_rollup_hourly_api_key ON usage_rollup_hourly (tenant_id, api_key_id, hour);

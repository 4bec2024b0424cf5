"""Read-only compositions for administrators and dashboards."""

"""Background jobs, leases and notifications between processes."""

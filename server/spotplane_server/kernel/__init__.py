"""Foundation of all features: database, errors, callers, jobs, clock, paging, wire formats."""

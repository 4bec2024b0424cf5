"""What every feature stands on: database, errors, callers, jobs, clock, paging, wire formats."""

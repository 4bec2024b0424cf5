"""A seeded campaign of faults against real processes, and a check of what they accepted.

`schedule` draws the faults from a seed, `site` runs the processes and injects them, `load` sends
commands, usage, notices and keyed creates and keeps a ledger of what was accepted, `checks`
compares the ledger and the agents' effect log with the database, and `campaign` runs all of it.
"""

"""Version 1 of the remote engine contract."""

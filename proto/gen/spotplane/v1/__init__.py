"""Version 1 of the Spotplane API."""

"""The one path from a signal that an instance is going to a promoted replica."""

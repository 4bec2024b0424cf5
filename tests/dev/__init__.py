"""`spotplane dev`, as a process of its own."""

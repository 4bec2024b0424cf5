"""`spotplane dev`: the whole plane on one machine, with a fleet to look at."""

"""Generated stubs and descriptors of the Spotplane API; see `make proto`."""

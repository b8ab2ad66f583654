"""The command `c2fvl`."""

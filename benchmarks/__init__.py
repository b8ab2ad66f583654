"""Measurements and the command for a rented GPU."""

"""Checkpoints of the reference implementations: read without executing anything, renamed to our networks."""

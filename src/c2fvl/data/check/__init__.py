"""The check of a data set."""

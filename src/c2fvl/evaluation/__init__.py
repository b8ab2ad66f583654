"""Trained networks on data sets: scores, audit, comparison, pages."""

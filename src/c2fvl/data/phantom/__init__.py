"""Synthetic chest images."""

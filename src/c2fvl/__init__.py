"""Segmentation of medical images with the help of a report."""

__version__ = "0.1.0"

"""Bytes and cells of files: images, tables, and the one way to write a file. No torch."""

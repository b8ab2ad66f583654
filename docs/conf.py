"""Settings of Sphinx: Markdown pages, nothing from the network."""

from importlib.metadata import version as installed_version

project = "c2fvl"
author = "The c2fvl authors"
copyright = "The c2fvl authors"
release = version = installed_version("c2fvl")

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "alabaster"
html_theme_options = {
    "description": "Segmentation of medical images with the help of a report",
    "page_width": "70rem",
    "body_max_width": "48rem",
}

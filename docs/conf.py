"""Settings of Sphinx: Markdown pages and the docstrings of the public API; nothing from the network."""

from importlib.metadata import version as installed_version

project = "c2fvl"
author = "The c2fvl authors"
copyright = "The c2fvl authors"
release = version = installed_version("c2fvl")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

default_role = "code"  # docstrings mark code as Markdown does, with single backticks
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"c2fvl {release}"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}

"""Results as HTML and Markdown pages."""

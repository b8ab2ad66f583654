"""From the download of a public data set to the folder layout that every command reads."""

"""The local web page and the REST server: `c2fvl serve`. Needs the extra `serve`."""

"""The command `serve`: the local web page and the REST server."""

import argparse
import importlib.util
import os
import sys
import webbrowser
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import ALIAS, DEFAULT
from c2fvl.cli.options import MODEL, PROGRAM, Commands, add_device, add_number, threads_of
from c2fvl.cli.output import say

_NEEDED = ("starlette", "uvicorn", "python_multipart")


def add(commands: Commands) -> None:
    """Add the command of this module."""
    commands.add("serve", run_serve, "Serve a page to try models in, and a REST interface.", _serve_options)


def _serve_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--model",
        action="append",
        metavar="NAME|FOLDER|FILE.onnx",
        help=f"{MODEL}, or an exported .onnx file; may be repeated, the first is the default (default: the model that "
        "is included in the package, and beside it that of the synthetic examples)",
    )
    sub.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; another one than this machine's own demands a token (default: %(default)s)",
    )
    add_number(sub, "--port", 8010, "port to listen at; 0 takes any free one", minimum=0)
    sub.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    add_device(sub)
    add_number(sub, "--queue", 64, "requests that may wait; a further one is answered 503")
    sub.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="demand the token in this file; without it, a server that other machines reach makes one and prints it",
    )
    sub.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate for https, as PEM")
    sub.add_argument("--tls-key", type=Path, metavar="FILE", help="key of the certificate, as PEM")
    sub.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name by which others call this server, such as that of a reverse proxy; may be repeated",
    )
    sub.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="another web page that may ask, as https://name:port; may be repeated",
    )
    sub.add_argument(
        "--monai-label",
        action="store_true",
        help="answer the MONAI Label protocol too, by which 3D Slicer asks for segmentations",
    )


def run_serve(options: argparse.Namespace) -> int:
    """Run `c2fvl serve` until a signal; return its exit status."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise ValueError("the server needs packages that are not installed: pip install 'c2fvl[serve]'")
    from c2fvl.serve.app import build_app
    from c2fvl.serve.networks import ServedModels
    from c2fvl.serve.run import Certificate, address_of, bind, needs_token, new_token, read_token, run
    from c2fvl.serve.settings import Limits, ServerSettings

    if (options.tls_cert is None) != (options.tls_key is None):
        raise ValueError("https needs --tls-cert and --tls-key, both")
    certificate = None if options.tls_cert is None else Certificate(options.tls_cert, options.tls_key)
    if certificate is not None:
        certificate.check()
    is_reached = needs_token(options.host) or bool(options.allow_host)  # a proxy passes on what others send
    made = options.token_file is None and is_reached
    token = new_token() if made else None if options.token_file is None else read_token(options.token_file)
    settings = ServerSettings(
        options.host, options.port, token, tuple(options.allow_host), tuple(options.allow_origin),
        Limits(queue=options.queue), options.monai_label,
    )  # fmt: skip
    listening = bind(settings)
    with listening:
        app = build_app(ServedModels(_models(options)), settings)
        address = address_of(settings, listening, secure=certificate is not None)

        def started() -> None:
            say(f"{PROGRAM}: the page is at {address}. Research use, not for diagnosis. Ctrl-C stops the server.")
            if options.monai_label:
                say(f"{PROGRAM}: server address of the MONAI Label extension of 3D Slicer: {address.rstrip('/')}")
            if made:
                say(f"{PROGRAM}: token, shown once: {token}")
            if needs_token(options.host) and certificate is None:
                say(
                    f"{PROGRAM}: images and reports travel unencrypted; use --tls-cert and --tls-key, or a reverse "
                    "proxy with https",
                    error=True,
                )
            sys.stdout.flush()
            if not options.no_browser:
                _open_browser(address)

        run(app, settings, listening, certificate=certificate, started=started)
    return 0


def _models(options: argparse.Namespace) -> list[Any]:
    """Return the loaded models; a model that cannot be loaded is an error before the server starts."""
    from c2fvl.data.phantom.examples import MODEL as EXAMPLE_MODEL
    from c2fvl.inference.open_engine import ONNX, open_engine
    from c2fvl.serve.networks import ServedModel

    found = []
    for name in options.model or [ALIAS, EXAMPLE_MODEL]:
        engine = open_engine(name, device=options.device, threads=threads_of(options))
        called = Path(name).stem if Path(name).suffix == ONNX else Path(name).name
        found.append(ServedModel(DEFAULT if name == ALIAS else called, engine))
    return found


def _open_browser(address: str) -> None:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return  # a browser in the terminal would take it from the server
    webbrowser.open_new_tab(address)

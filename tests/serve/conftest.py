"""A server in this process, on a free port, with the model of the package."""

import contextlib
import ssl
import threading

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import httpx
from support.servers import Gate, Running

from c2fvl.serve import run as serve_run
from c2fvl.serve.app import build_app
from c2fvl.serve.networks import ServedModel, ServedModels
from c2fvl.serve.settings import ServerSettings


@pytest.fixture(scope="session")
def engine():
    """The network of the package."""
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.torch_engine import NetworkEngine

    return NetworkEngine(load_model("default"), in_place=True)


@contextlib.contextmanager
def running(models, settings, certificate=None):
    patch = pytest.MonkeyPatch()
    patch.setattr(serve_run, "quiet_logs", lambda: None)  # the levels of this process stay as they are
    servers = []
    own_init = serve_run._Server.__init__
    patch.setattr(serve_run._Server, "__init__", lambda self, *them: (own_init(self, *them), servers.append(self))[0])
    app = build_app(models, settings)
    listening = serve_run.bind(settings)
    started = threading.Event()
    thread = threading.Thread(
        target=serve_run.run,
        args=(app, settings, listening),
        kwargs={"started": started.set, "certificate": certificate},
    )
    thread.start()
    try:
        assert started.wait(30)
        address = serve_run.address_of(settings, listening, secure=certificate is not None)
        trusted = True if certificate is None else ssl.create_default_context(cafile=certificate.certificate)
        with httpx.Client(
            base_url=address, headers={"X-C2FVL": "1"}, timeout=60, trust_env=False, verify=trusted
        ) as client:
            yield Running(address, client, app.app.state.service, app.app.routes)
    finally:
        servers[0].should_exit = True
        thread.join(30)
        listening.close()
        patch.undo()
    assert not thread.is_alive()


@pytest.fixture(scope="package")
def start():
    """Return the context in which a server runs, for fixtures that live longer than a test."""
    return running


@pytest.fixture(scope="package")
def server(engine):
    """A server with the default limits."""
    with running(ServedModels([ServedModel("small", engine)]), ServerSettings(port=0)) as found:
        yield found


@pytest.fixture
def serve(engine):
    """Return a function that starts a further server with these settings."""
    with contextlib.ExitStack() as stack:

        def start(models=None, certificate=None, **settings):
            models = models or ServedModels([ServedModel("small", engine)])
            return stack.enter_context(running(models, ServerSettings(port=0, **settings), certificate))

        yield start


@pytest.fixture
def gate(engine):
    """A network that waits until its gate is opened."""
    gate = Gate(engine)
    yield gate
    gate.opened.set()

"""A small DICOMweb archive in a thread that does what a test wants of it, also what no archive should do."""

import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pydicom
from support.dicom import as_bytes

from c2fvl.dicomweb import multipart

JSON = "application/dicom+json"


class FakeArchive:
    """Its objects, the requests that came, and `rules`: functions of method, path and handler that may answer first."""

    def __init__(self):
        self.objects = {}
        self.requests = []
        self.headers = []
        self.rules = []
        self.page = 1000

    def add(self, *datasets):
        for dataset in datasets:
            self.objects[str(dataset.SOPInstanceUID)] = (dataset, as_bytes(dataset))

    def made(self, modality):
        """Return the objects of a modality."""
        return [dataset for dataset, _ in self.objects.values() if dataset.Modality == modality]

    def find(self, level, parts, query):
        """Return the entries of a search as DICOM JSON, each once."""
        keys = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
        found = {}
        for dataset, _ in self.objects.values():
            if all(str(dataset[keys[name]].value) == uid for name, uid in parts.items() if uid) and all(
                str(dataset.get(name)) == value[0] for name, value in query.items() if name in keys.values()
            ):
                wanted = query.get("ModalitiesInStudy")
                if wanted is None or dataset.Modality in wanted:
                    found[str(dataset[keys[level]].value)] = dataset
        start, end = int(query["offset"][0]), int(query["offset"][0]) + self.page
        return [self.entry(dataset) for dataset in list(found.values())[start:end]]

    def entry(self, dataset):
        def element(vr, value):
            return {"vr": vr, "Value": [value]}

        study = sum(str(one.StudyInstanceUID) == str(dataset.StudyInstanceUID) for one, _ in self.objects.values())
        return {
            "0020000D": element("UI", str(dataset.StudyInstanceUID)),
            "0020000E": element("UI", str(dataset.SeriesInstanceUID)),
            "00080018": element("UI", str(dataset.SOPInstanceUID)),
            "00080016": element("UI", str(dataset.SOPClassUID)),
            "00080060": element("CS", str(dataset.Modality)),
            "00201208": element("IS", study),
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    archive = None

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", kind=JSON, **headers):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body))} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.handle_one("GET")

    def do_POST(self):
        self.handle_one("POST")

    def handle_one(self, method):
        address = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.archive.requests.append(f"{method} {self.path}")
        self.archive.headers.append(dict(self.headers))
        for rule in list(self.archive.rules):
            if rule(method, self.path, self):
                return
        if method == "POST":
            self.store()
            return
        words = address.path.removeprefix("/dicom-web").strip("/").split("/")
        parts = dict(zip(words[::2], [*words[1::2], ""], strict=False))
        if parts.get("instances"):
            _, data = self.archive.objects[parts["instances"]]
            kind, body = multipart.encode([data], "boundary")
            self.answer(200, body, kind)
        else:
            found = self.archive.find(words[-1], parts, parse_qs(address.query))
            self.answer(200 if found else 204, json.dumps(found).encode() if found else b"")

    def store(self):
        stored = []
        for data in multipart.decode(self.headers["Content-Type"], self.body):
            dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
            self.archive.objects.setdefault(str(dataset.SOPInstanceUID), (dataset, data))
            stored.append({"00081155": {"vr": "UI", "Value": [str(dataset.SOPInstanceUID)]}})
        answer = {"00081199": {"vr": "SQ", "Value": stored}, "00081198": {"vr": "SQ", "Value": []}}
        self.answer(200, json.dumps(answer).encode())


@contextlib.contextmanager
def fake_archive(certificate=None):
    """Yield a running archive; with a certificate, a PEM file that holds its key too, by https."""
    archive = FakeArchive()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"archive": archive}))
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    archive.url = f"http{'' if certificate is None else 's'}://127.0.0.1:{server.server_address[1]}/dicom-web"
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

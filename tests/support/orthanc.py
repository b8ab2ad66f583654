"""A real DICOMweb archive, Orthanc, alone with this test in a network without any other machine."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ORTHANC = "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PORT = 18042
USER, PASSWORD = "c2fvl", "secret of the archive"
_CLONE_NEWNET = 0x40000000
_NAMESPACE = "/proc/{}/ns/net"


def orthanc_or_skip():
    """Skip the test where there is no Orthanc, or where no network namespace can be made."""
    if not Path(ORTHANC).is_file() or not PLUGIN.is_file():
        pytest.skip("Orthanc is not installed; it comes with orthanc and orthanc-dicomweb")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare and ip are not there, so Orthanc would be open to other machines")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -n is refused here; it works as root")


class Orthanc:
    """An archive in a folder; while it is entered, this thread and its children are in its network."""

    def __init__(self, folder: Path, *, auth: bool = False) -> None:
        (folder / "DB").mkdir(parents=True)
        settings = {
            "Name": "c2fvl-test", "StorageDirectory": str(folder / "DB"), "IndexDirectory": str(folder / "DB"),
            "Plugins": [str(PLUGIN)], "HttpPort": PORT, "RemoteAccessAllowed": False, "DicomServerEnabled": False,
            "OrthancExplorerEnabled": False, "WebDavEnabled": False, "SyncStorageArea": False, "StableAge": 1,
            "AuthenticationEnabled": auth, "RegisteredUsers": {USER: PASSWORD} if auth else {},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado"},
        }  # fmt: skip
        self._file = folder / "orthanc.json"
        self._file.write_text(json.dumps(settings))
        self._log = folder / "log"
        self._holder = subprocess.Popen(  # holds the network while Orthanc is away
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout.readline() == "up\n"
        self._process = None
        self._own = os.open(_NAMESPACE.format("self"), os.O_RDONLY)
        self.url = f"http://127.0.0.1:{PORT}/dicom-web"

    def __enter__(self):
        theirs = os.open(_NAMESPACE.format(self._holder.pid), os.O_RDONLY)
        _enter(theirs)
        os.close(theirs)
        self.start()
        return self

    def __exit__(self, *_):
        self.stop(signal.SIGKILL)
        _enter(self._own)
        os.close(self._own)
        self._holder.communicate("")

    def start(self):
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([ORTHANC, str(self._file)], stdout=log, stderr=log)
        end = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/system", timeout=5):
                    return
            except urllib.error.HTTPError:  # it wants a password
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < end, self._log.read_text()
                time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        """End it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


def _enter(namespace: int) -> None:
    """Move this thread, and what it starts from now on, into a network."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def running_orthanc(folder: Path, **settings):
    """Yield a running archive without images."""
    orthanc_or_skip()
    with Orthanc(folder, **settings) as orthanc:
        yield orthanc

"""A real Orthanc with DICOMweb on a free port of this machine, for the tests of servers."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.apps.debian import environment_of, unpacked
from tests.apps.processes import end, free_port

__all__ = ["Orthanc", "start_orthanc"]


@dataclass(frozen=True)
class Orthanc:
    """A running server.

    Attributes:
        url: root of its own REST interface.
        process: the program.
        log: what it writes.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def dicomweb(self) -> str:
        """Address of DICOMweb, as ``medseg serve`` takes it."""
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> Any:
        """Answer of its REST interface, from JSON."""
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return json.loads(response.read())

    def store(self, files: Iterable[Path]) -> None:
        """Store DICOM files by STOW."""
        from dicomweb_client import DICOMwebClient
        from pydicom import dcmread

        DICOMwebClient(self.dicomweb).store_instances([dcmread(file) for file in files])

    def stop(self) -> None:
        """End the program; what it holds stays in its folder."""
        end(self.process)


def start_orthanc(folder: Path) -> Orthanc:
    """Start an empty Orthanc that keeps its files in ``folder``; Debian's packages are unpacked before."""
    root = unpacked("orthanc", "orthanc-dicomweb")
    (plugin,) = Path(root / "usr/lib/orthanc").glob("libOrthancDicomWeb.so*")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "Name": "medseg-monai tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,  # this machine alone
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    dictionaries = sorted((root / "usr/share").glob("libdcmtk*/dicom.dic"))
    environment = {**environment_of(root), **({"DCMDICTPATH": str(dictionaries[0])} if dictionaries else {})}
    log = folder / "orthanc.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(root / "usr/sbin/Orthanc"), str(folder / "orthanc.json")],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    orthanc = Orthanc(f"http://127.0.0.1:{port}", process, log)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            orthanc.get("/system")
            return orthanc
        except OSError:
            time.sleep(0.2)
    orthanc.stop()
    pytest.fail(f"Orthanc did not start:\n{log.read_text(errors='replace')[-3000:]}")

"""A MONAI Label server of this project on a free port, for tests that are marked ``label``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import nibabel as nib
import numpy as np
import pytest

from medseg_monai.phantoms import write_chest_xray_phantoms
from tests.apps.processes import end, free_port

CXR, LOBES = "lung_cxr_rescrnet", "lung_lobe_ct_ctsunet"
SCAN_SHAPE = (36, 30, 20)

_START = """
import json, sys
from medseg_monai.apps.label import serve
serve(**json.loads(sys.argv[1]))
"""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        return str(self.json["detail"])


@dataclass(frozen=True)
class Server:
    url: str
    studies: Path | str
    work_dir: Path
    log: Path
    process: subprocess.Popen[bytes]

    def ask(self, method: str, path: str, **fields: str | Path) -> Answer:
        """A request; fields go as a form, files among them by their path."""
        body, content_type = _form(fields) if fields else (b"", None)
        return self.send(method, path, body, content_type)

    def ask_json(self, method: str, path: str, content: Any) -> Answer:
        return self.send(method, path, json.dumps(content).encode(), "application/json")

    def send(self, method: str, path: str, body: bytes, content_type: str | None) -> Answer:
        headers = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(self.url + path, data=body or None, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return Answer(response.status, response.read())
        except HTTPError as error:
            return Answer(error.code, error.read())

    def finished(self, task: str, seconds: float = 900) -> dict[str, Any]:
        """What ``task`` (``/train/``, ``/batch/infer``) says of itself when it runs no more."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            told: dict[str, Any] = self.ask("GET", task).json
            if told["status"] not in ("SUBMITTED", "RUNNING"):
                return told
            time.sleep(0.5)
        pytest.fail(f"{task} does not end")

    def infer(self, bundle: str, image: str, output: str = "image", **params: Any) -> Answer:
        return self.ask("POST", f"/infer/{bundle}?image={image}&output={output}", params=json.dumps(params))


def _form(fields: dict[str, str | Path]) -> tuple[bytes, str]:
    boundary = "----medseg-label-test"
    parts = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, Path):
            head += f'; filename="{value.name}"\r\nContent-Type: application/octet-stream'
        content = value.read_bytes() if isinstance(value, Path) else value.encode()
        parts.append(head.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def start_server(work_dir: Path, studies: Path | str, **settings: Any) -> Server:
    port = free_port()
    arguments = {"studies": str(studies), "work_dir": str(work_dir), "port": port, **settings}
    log = work_dir.with_suffix(".log")
    work_dir.with_suffix(".tmp").mkdir(exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(arguments)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=work_dir.parent,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "TMPDIR": str(work_dir.with_suffix(".tmp")),
            },
        )
    server = Server(f"http://127.0.0.1:{port}", studies, work_dir, log, process)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if server.ask("GET", "/info/").status in (200, 401):
                return server
        except OSError:
            time.sleep(0.5)
    stop_server(server)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def stop_server(server: Server) -> None:
    end(server.process)


@pytest.fixture(scope="session")
def chest_xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn radiographs, not square, with their masks."""
    folder = tmp_path_factory.mktemp("chest_xrays")
    write_chest_xray_phantoms(folder, counts={"training": 4}, size=(150, 181), seed=0)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, chest_xrays: Path, lobe_model: Path) -> Iterator[Server]:
    """A server with one 2D and one 3D bundle over a folder of four radiographs and an oblique scan."""
    folder = tmp_path_factory.mktemp("label")
    studies = folder / "studies"
    shutil.copytree(chest_xrays / "images", studies)
    write_scan(studies / "scan.nii.gz")
    running = start_server(folder / "work", studies, bundles=[CXR, LOBES], weights={LOBES: str(lobe_model)})
    yield running
    stop_server(running)


def write_scan(path: Path) -> None:
    """A small scan of noise whose axes run askew to the patient's, each with its own spacing."""
    affine = np.array([[-2.1, 0.3, 0, 40], [0.2, 2.0, 0.4, -60], [0.1, -0.3, 4.9, 20], [0, 0, 0, 1.0]])
    rotation, _ = np.linalg.qr(affine[:3, :3])
    affine[:3, :3] = rotation * (2.1, 1.9, 4.9)
    values = np.random.default_rng(3).integers(-1000, 300, SCAN_SHAPE)
    nib.Nifti1Image(values.astype(np.int16), affine).to_filename(path)

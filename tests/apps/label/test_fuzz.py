"""Requests drawn at random, as broken clients and curious people send them: each has an answer, and none does harm."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.data.radiograph_files import write_radiograph

from .conftest import CXR, LOBES, Answer, Server, start_server, stop_server, write_scan
from .test_server import kept, wait_for

pytestmark = pytest.mark.label

FORM = "multipart/form-data; boundary=x"


def bounded(requests: int) -> settings:
    """As many requests as a test has time for, the same each time; another seed and number by MEDSEG_FUZZ."""
    times = os.environ.get("MEDSEG_FUZZ")
    return settings(
        max_examples=requests * int(times or 1),
        derandomize=not times,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


ODD_NAMES = ["", ".", "..", "../..", "/", "/etc/passwd", "\0", "a\0b", "a" * 300, "é" * 200, "\ud800", "%00", "$@%"]
ODD_TEXT = st.text(max_size=20) | st.sampled_from([*ODD_NAMES, "phantom_0001"])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ODD_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ODD_TEXT, inner, max_size=3)),
    max_leaves=6,
)
KEYS = st.sampled_from(
    "threshold model_version result_extension output label_info label_names params strategy image session label_tag "
    "save_label timeout client_id keep_largest name ts idx logging device user labels checkpoint bundle_path gpus "
    f"uncertainty_{CXR}".split()
)
VALUES = JSON | st.sampled_from(
    [True, 5, -1, "final", "nan", {"lungs": 1}, {"lungs": "a"}, [{"name": "lungs"}], [["idx"]]]
)
PARAMS = st.one_of(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), JSON).map(
    lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
)
BODIES = st.one_of(
    PARAMS,
    st.binary(max_size=50),
    st.sampled_from([b"", b"NaN", b"[" * 50_000, b'{"a":' * 1000 + b"1" + b"}" * 1000, b'{"a": "\xff"}', b" " * 2**21]),
)
CONTENT_TYPES = st.sampled_from(
    ["application/json", "application/json; charset=utf-16", "text/plain", "multipart/form-data", FORM, "\xff", ""]
)
NAMES = st.one_of(
    st.sampled_from(
        ["a.png", "a.nii.gz", "a.nrrd", "a.mhd", "a.dcm", "a.bin", "a.zip", "a.json", "a.tif", "a", "..png"]
    ),
    ODD_TEXT,
)
PATHS = st.sampled_from(
    "info/ train/ batch/infer datastore/ datastore/image datastore/label datastore/image/info datastore/label/info "
    "datastore/updatelabelinfo datastore/dataset session/ scoring/ logs/ logs/gpu model/ ohif/ proxy/dicom/ auth/ "
    f"activelearning/ activelearning/first infer/ infer/{CXR} infer/{LOBES} model/{CXR} model/info/{CXR} static/ "
    "openapi.json docs".split()
)
QUERY = st.dictionaries(
    st.sampled_from(
        ["image", "label", "tag", "id", "output", "session_id", "uncompress", "expiry", "check_sum", "lines"]
    )
    | st.sampled_from(["params", "limit_cases", "all", "run_sync", "enqueue", "refresh", "html", "text", "update_ts"]),
    st.one_of(ODD_TEXT, st.integers().map(str), st.sampled_from(["final", "image", "all", "train", "true", "MD6:00"])),
    max_size=4,
)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, chest_xrays: Path, lobe_model: Path) -> Iterator[Server]:
    """A server of its own: whatever the requests add to its folder, no other test sees."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "originals").mkdir()
    for image in (chest_xrays / "images").iterdir():
        shutil.copy(image, folder / "originals")
    write_scan(folder / "originals" / "scan.nii.gz")
    (folder / "studies").mkdir()
    for image in (folder / "originals").iterdir():
        (folder / "studies" / image.name).symlink_to(image)
    server = start_server(folder / "work", folder / "studies", bundles=[CXR, LOBES], weights={LOBES: str(lobe_model)})
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def sent(studied: Server, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    """Files that are whole, to be damaged."""
    folder = tmp_path_factory.mktemp("sent")
    images = [studied.studies / "phantom_0001.png", studied.studies / "scan.nii.gz"]
    archive = shutil.make_archive(str(folder / "archive"), "zip", studied.studies.parent / "originals")
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: /etc/passwd\n\n"
    radiograph = write_radiograph(folder / "dx.dcm", np.arange(117).reshape(9, 13))
    whole = [(path.name, path.read_bytes()) for path in [*images, Path(archive), radiograph]]
    return [*whole, ("a.nrrd", header), ("a.png", b"")]


@pytest.fixture(scope="module")
def mask(studied: Server) -> bytes:
    return studied.infer(CXR, "phantom_0001").body


@pytest.fixture(autouse=True)
def no_harm(studied: Server) -> Iterator[None]:
    """Around all requests of a test: no file elsewhere is another, and none of an upload stays."""
    before, files = unchanged(studied), kept(studied)
    yield
    assert unchanged(studied) == before
    assert wait_for(lambda: kept(studied) - files, lambda left: not left) == set()
    assert studied.process.poll() is None
    assert studied.infer(CXR, "phantom_0002").status == 200


def unchanged(server: Server) -> dict[str, str]:
    """Hashes of the files that no client may change: the originals, the app and its models."""
    root = server.work_dir.parent
    folders = (root / "originals", server.work_dir / "app", server.work_dir / "models")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in [*files, *root.glob("*.pt")]}


def ask(server: Server, method: str, path: str, query: dict[str, str], body: bytes, content_type: str) -> Answer:
    """A request with bytes of any kind in its address."""
    given = "&".join(f"{key}={quote(value.encode('utf-8', 'surrogatepass'))}" for key, value in query.items())
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    try:
        headers = {"Content-Type": content_type} if content_type else {}
        connection.request(method, f"/{path}?{given}", body or None, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


def form(**fields: bytes | tuple[str, bytes]) -> bytes:
    parts = []
    for name, value in fields.items():
        file, content = value if isinstance(value, tuple) else (None, value)
        named = "" if file is None else '; filename="{}"'.format(file.replace("\r", "").replace("\n", ""))
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        parts.append(head.encode("utf-8", "surrogatepass") + content + b"\r\n")
    return b"".join(parts) + b"--x--\r\n"


def check(answer: Answer, *asked: Any) -> None:
    assert answer.status < 500, (answer, *asked)
    if answer.status >= 400:
        assert "\n" not in str(answer.json["detail"]) if answer.body else True, answer


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    content = bytearray(whole[: draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
    for _ in range(draw(st.integers(0, 5)) if content else 0):
        content[draw(st.integers(0, min(len(content) - 1, draw(st.sampled_from([400, 10**7])))))] = draw(
            st.integers(0, 255)
        )
    return bytes(content)


@bounded(150)
@given(data=st.data())
def test_damaged_uploads(studied: Server, sent: list[tuple[str, bytes]], data: st.DataObject):
    own, whole = data.draw(st.sampled_from(sent))
    content = data.draw(damage(whole))
    name, params = data.draw(st.just(own) | st.just(own) | NAMES), data.draw(st.just(b"{}") | st.just(b"{}") | PARAMS)
    method, path, field, query = data.draw(
        st.sampled_from(
            [
                ("POST", f"infer/{CXR}", "file", {}),
                ("POST", f"infer/{LOBES}", "file", {}),
                ("PUT", "datastore/image", "file", {}),
                ("PUT", "datastore/image", "file", {"image": "sent"}),
                ("PUT", "datastore/label", "label", {"image": "phantom_0001"}),
                ("PUT", "datastore/label", "label", {"image": "scan"}),
                ("PUT", "session/", "files", {}),
                ("PUT", "session/", "files", {"uncompress": "true"}),
            ]
        )
    )
    body = form(params=params, **{field: (name, content)})
    check(ask(studied, method, path, query, body, FORM), method, path, name, params, content[:100])


@bounded(50)
@given(params=PARAMS, tag=st.just("drawn") | ODD_TEXT)
def test_params(studied: Server, mask: bytes, params: bytes, tag: str):
    for method, path, query, fields in (
        ("POST", f"infer/{CXR}", {"image": "phantom_0001", "output": "json"}, {"params": params}),
        ("PUT", "datastore/image/info", {"image": "phantom_0001"}, {"info": params}),
        ("PUT", "datastore/label/info", {"label": "phantom_0001", "tag": tag}, {"info": params}),
        (
            "PUT",
            "datastore/label",
            {"image": "phantom_0001", "tag": tag},
            {"params": params, "label": ("a.png", mask)},
        ),
    ):
        check(ask(studied, method, path, query, form(**fields), FORM), method, path, params)
    for path in ("activelearning/first", f"activelearning/uncertainty_{CXR}", "train/nothing", "scoring/nothing"):
        check(ask(studied, "POST", path, {}, params, "application/json"), path, params)
    check(ask(studied, "GET", "datastore/", {"output": "all"}, b"", ""), params)


@bounded(400)
@given(
    method=st.sampled_from(["GET", "GET", "GET", "PUT", "PUT", "POST", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS"]),
    path=PATHS,
    below=st.just("") | st.just("") | ODD_TEXT,
    query=QUERY,
    body=BODIES,
    content_type=CONTENT_TYPES,
)
def test_anything(
    studied: Server, method: str, path: str, below: str, query: dict[str, str], body: bytes, content_type: str
):
    address = path + quote(below.encode("utf-8", "surrogatepass"), safe="/.")
    assume((method, address) != ("POST", "train/"))  # it would be done
    check(ask(studied, method, address, query, body, content_type), method, address, query, body[:100], content_type)

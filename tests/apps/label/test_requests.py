"""Requests that ask the label server for what it must not do, or for what makes no sense: each is refused in a line."""

from __future__ import annotations

import json
import os
import tarfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from .conftest import CXR, LOBES, SCAN_SHAPE, Answer, Server
from .test_server import kept, wait_for

pytestmark = pytest.mark.label

NHDR = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: {}\nspacings: 1 2 3\nencoding: raw\nbyte skip: {}\ndata file: {}\n"
MHD = (
    "NDims = 3\nDimSize = {}\nElementSpacing = 1 2 3\nHeaderSize = {}\nElementType = MET_UCHAR\nElementDataFile = {}\n"
)


@pytest.fixture
def secret(server: Server) -> Path:
    """A file of the server's user that no client may see, as long as a scan has voxels."""
    path = server.work_dir.with_suffix(".secret")
    path.write_bytes(bytes(range(256)) * 85)
    return path


@pytest.fixture(params=[("nhdr", NHDR), ("nrrd", NHDR), ("mhd", MHD), ("mha", MHD)], ids=lambda one: one[0])
def detached(request, secret: Path, tmp_path: Path) -> Path:
    """A header that names the secret as the file of its voxels."""
    suffix, text = request.param
    header = tmp_path / f"scan.{suffix}"
    header.write_text(text.format(" ".join(map(str, SCAN_SHAPE)), 0, secret))
    return header


def from_page(server: Server, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
    request = urllib.request.Request(server.url + path, data=body, method="POST", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Answer(response.status, response.read())
    except HTTPError as error:
        return Answer(error.code, error.read())


class TestFilesOfTheServer:
    def test_an_upload_names_no_other_file_of_the_server(self, server: Server, detached: Path):
        answer = server.ask("POST", f"/infer/{LOBES}?output=json", file=detached)
        assert answer.status == 422
        assert "its voxels are in another file; send one file" in answer.detail

    def test_an_image_and_a_label_that_are_kept_name_no_other_file(self, server: Server, detached: Path):
        image = server.ask("PUT", "/datastore/image?image=given", file=detached)
        label = server.ask("PUT", "/datastore/label?image=scan&tag=final", label=detached)
        assert (image.status, label.status) == (422, 422)
        assert "its voxels are in another file" in image.detail
        assert not list(server.studies.rglob("given*"))

    def test_a_header_in_a_session_names_no_other_file(self, server: Server, detached: Path):
        session = server.ask("PUT", "/session/", files=detached).json["session_id"]
        assert server.ask("POST", f"/infer/{LOBES}?session_id={session}").status == 422
        assert server.ask("DELETE", f"/session/{session}").status == 200

    @pytest.mark.parametrize("folder", ["tmp", "work/tmp", "work/uploads", "work/sessions"])
    @pytest.mark.parametrize("asked", ["query", "params"])
    def test_a_file_is_neither_read_nor_deleted_for_being_in_a_folder_of_the_server(self, server, folder, asked):
        path = server.work_dir.parent.joinpath(folder.replace("tmp", "work.tmp", folder == "tmp")) / "other.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((server.studies / "phantom_0001.png").read_bytes())
        if asked == "query":
            assert server.infer(CXR, str(path)).status == 404
        else:
            assert server.ask("POST", f"/infer/{CXR}?image=none", params=json.dumps({"image": str(path)})).status == 404
        assert path.is_file()
        path.unlink()

    def test_a_session_s_image_is_segmented_and_an_id_is_no_path(self, server: Server):
        image = server.studies / "phantom_0002.png"
        session = server.ask("PUT", "/session/", files=image).json["session_id"]
        answer = server.ask("POST", f"/infer/{CXR}?session_id={session}&output=image")
        assert (answer.status, answer.body) == (200, server.infer(CXR, "phantom_0002").body)
        assert server.ask("POST", f"/infer/{CXR}?session_id=../sessions/{session}").status == 404
        assert server.ask("DELETE", f"/session/{session}").status == 200

    def test_an_archive_is_unpacked_nowhere_else(self, server: Server, tmp_path: Path):
        (tmp_path / "a.txt").write_text("a")
        with tarfile.open(tmp_path / "sent.tar", "w") as archive:
            archive.add(tmp_path / "a.txt", "../../../escaped.txt")
        before = kept(server)
        answer = server.ask("PUT", "/session/?uncompress=true", files=tmp_path / "sent.tar")
        assert (answer.status, answer.detail.partition(":")[0]) == (422, "sent.tar")
        assert not list(server.work_dir.parent.rglob("escaped.txt"))
        assert wait_for(lambda: kept(server), lambda found: found == before) == before

    def test_no_file_is_opened_as_a_slide(self, server: Server, secret: Path):
        assert server.ask_json("POST", f"/infer/wsi/{CXR}?image={secret}", {}).status == 403
        assert server.ask("POST", f"/infer/wsi_v2/{CXR}?image={secret}").status == 403

    def test_a_client_adds_no_folder_to_the_path_of_a_training(self, server: Server, tmp_path: Path):
        answer = server.ask_json("POST", f"/train/{CXR}", {"bundle_path": str(tmp_path)})
        assert (answer.status, answer.detail[:11]) == (422, "bundle_path")


class TestPagesOfOthers:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://elsewhere.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
        ids=str,
    )
    def test_a_post_of_another_page_is_refused(self, server: Server, headers: dict[str, str]):
        answer = from_page(server, f"/infer/{CXR}?image=phantom_0001", headers)
        assert (answer.status, answer.detail[:6]) == (403, "Sent b")

    def test_a_post_of_our_own_page_or_of_a_program_is_obeyed(self, server: Server):
        path = f"/infer/{CXR}?image=phantom_0001&output=json"
        proxied = {"Origin": "https://label.example", "X-Forwarded-Host": "label.example"}
        for headers in ({}, {"Origin": server.url}, {"Sec-Fetch-Site": "same-origin"}, proxied):
            assert from_page(server, path, headers).status == 200

    def test_a_body_says_what_it_is(self, server: Server):
        answer = from_page(server, "/activelearning/first", {"Content-Type": ""}, b"{}")
        assert answer.status in (415, 422)


class TestWhatMakesNoSense:
    @pytest.mark.parametrize(
        "params", ["null", "1", "[]", '"a"', "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, '{"a": "\\ud800"}']
    )
    def test_params_that_are_no_plain_object_are_refused_everywhere(self, server: Server, params: str):
        image = server.studies / "phantom_0003.png"
        before = kept(server)
        statuses = [
            server.ask("POST", f"/infer/{CXR}?image=phantom_0001", params=params).status,
            server.ask("POST", f"/infer/{CXR}", params=params, file=image).status,
            server.ask("PUT", "/datastore/image?image=given", params=params, file=image).status,
            server.ask("PUT", "/datastore/label?image=phantom_0001", params=params, label=image).status,
            server.ask("PUT", "/datastore/image/info?image=phantom_0001", info=params).status,
        ]
        assert set(statuses) <= {400, 422}
        assert wait_for(lambda: kept(server), lambda found: found == before) == before
        assert server.ask("GET", "/datastore/?output=all").status == 200

    @pytest.mark.parametrize("option", [{"threshold": -5}, {"threshold": "nan"}, {"keep_largest": -1}])
    def test_an_option_outside_its_range_gets_no_empty_mask(self, server: Server, option: dict[str, object]):
        answer = server.infer(CXR, "phantom_0001", **option)
        assert answer.status == 422
        assert answer.detail.startswith(f"{CXR}: {next(iter(option))}: expected a")
        assert server.ask_json("POST", f"/batch/infer/{CXR}", option).status == 422

    @pytest.mark.parametrize(
        "option",
        [{"learning_rate": "much"}, {"max_epochs": 0}, {"val_split": 2}, {"use_model": "none"}, {"gpus": 7}],
        ids=str,
    )
    def test_a_training_with_an_impossible_option_is_not_started(self, server: Server, option: dict[str, object]):
        assert server.ask_json("POST", f"/train/{CXR}", option).status == 422
        assert server.ask("GET", "/train/").status == 404

    def test_numbers_that_json_cannot_hold_are_refused(self, server: Server):
        for body in (b'{"learning_rate": NaN}', b'{"learning_rate": 1e999}', b"NaN"):
            assert server.send("POST", f"/train/{CXR}", body, "application/json").status == 422
        assert server.ask("POST", f"/infer/{CXR}?image=phantom_0001", params='{"threshold": NaN}').status == 422

    @pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\0", "é" * 140])
    def test_a_name_that_no_file_can_have_is_refused(self, server: Server, name: str):
        image = server.studies / "phantom_0001.png"
        asked = quote(name)
        before = kept(server)
        statuses = [
            server.ask("POST", f"/infer/{CXR}?image={asked}").status,
            server.ask("POST", f"/infer/{CXR}?session_id={asked}").status,
            server.ask("GET", f"/session/{asked}").status,
            server.ask("GET", f"/datastore/image?image={asked}").status,
            server.ask("PUT", f"/datastore/image?image={asked}", file=image).status,
            server.ask("PUT", f"/datastore/label?image={asked}", label=image).status,
            server.ask("PUT", f"/datastore/label?image=phantom_0001&tag={asked}", label=image).status,
            server.ask("GET", f"/datastore/label?label={asked}&tag={asked}").status,
        ]
        assert all(400 <= status < 500 for status in statuses), statuses
        assert wait_for(lambda: kept(server), lambda found: found == before) == before

    @pytest.mark.parametrize("name", ["x." + "a" * 300, "a\0.png", "..", "../..", "a/"])
    def test_an_upload_whose_name_no_file_can_have_is_refused_and_nothing_is_deleted(self, server: Server, name: str):
        content = (server.studies / "phantom_0001.png").read_bytes()
        for method, path, field in (
            ("POST", f"/infer/{CXR}", "file"),
            ("PUT", "/datastore/image?image=given", "file"),
            ("PUT", "/datastore/label?image=phantom_0001", "label"),
            ("PUT", "/session/", "files"),
        ):
            head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
            answer = server.send(method, path, head + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")
            assert 400 <= answer.status < 500, (path, answer.body)
        unnamed = b'--x\r\nContent-Disposition: form-data; name="files"; filename=""\r\n\r\na\r\n--x--\r\n'
        path = "/session/?uncompress=true"
        assert server.send("PUT", path, unnamed, "multipart/form-data; boundary=x").status == 422
        assert server.ask("POST", f"/infer/{CXR}", file=server.studies / "phantom_0001.png").status == 200

    def test_the_archive_of_all_labels_is_sent_and_does_not_stay(self, server: Server):
        assert server.ask("GET", "/datastore/dataset").status == 404
        before = kept(server)
        mask = server.studies / "phantom_0001.png"
        label = server.infer(CXR, mask.stem).body
        path = f"/datastore/label?image={mask.stem}&tag=final"
        body = (
            b'--x\r\nContent-Disposition: form-data; name="label"; filename="a.png"\r\n\r\n' + label + b"\r\n--x--\r\n"
        )
        assert server.send("PUT", path, body, "multipart/form-data; boundary=x").status == 200
        assert server.ask("GET", "/datastore/dataset").body.startswith(b"PK")
        assert wait_for(lambda: kept(server), lambda found: found == before) == before
        assert server.ask("DELETE", f"/datastore/label?id={mask.stem}&tag=final").status == 200

    def test_a_body_that_is_larger_than_any_request_is_refused(self, server: Server):
        body = b'{"a": "' + b"a" * 2**22 + b'"}'
        for path in ("/activelearning/first", f"/train/{CXR}"):
            assert server.send("POST", path, body, "application/json").status == 413
        assert server.send("PUT", "/session/", body, "application/x-www-form-urlencoded").status == 413

    @pytest.mark.parametrize("key", ["strategy", f"uncertainty_{CXR}"])
    def test_a_client_does_not_change_what_the_server_remembers_of_an_image(self, server: Server, key: str):
        answer = server.ask("PUT", "/datastore/image/info?image=phantom_0001", info=json.dumps({key: 5}))
        assert answer.status == 422
        assert server.ask_json("POST", f"/activelearning/uncertainty_{CXR}", {}).status == 200
        assert server.ask_json("POST", "/activelearning/first", {}).status == 200

    def test_an_error_is_one_line_whatever_the_names_in_it_are(self, server: Server):
        answer = server.ask("PUT", "/datastore/image/info?image=a%0Ab", info="{}")
        assert (answer.status, answer.detail) == (404, "Image a b not found")

    def test_a_method_of_scoring_that_there_is_not_is_not_found(self, server: Server):
        assert server.ask_json("POST", "/scoring/dice", {}).status == 404

    def test_a_training_is_not_waited_for(self, server: Server):
        assert server.ask_json("POST", f"/train/{CXR}?run_sync=true", {"max_epochs": 1}).status == 422

    def test_a_request_without_an_image_is_refused(self, server: Server):
        assert server.ask("POST", f"/infer/{CXR}").status == 400

    def test_a_strategy_that_is_no_name_is_refused(self, server: Server):
        assert server.ask_json("POST", "/activelearning/first", {"strategy": []}).status == 404

    def test_a_model_that_is_no_name_is_refused(self, server: Server):
        assert server.ask_json("POST", f"/train/{CXR}", {"model": []}).status == 404


class TestManyAtOnce:
    @pytest.fixture
    def pipe(self, server: Server) -> Iterator[Path]:
        """An image of the studies whose inference lasts as long as the test wants: a pipe."""
        path = server.studies / "endless.png"
        os.mkfifo(path)
        about = "/datastore/image/info?image=endless"
        assert wait_for(lambda: server.ask("GET", about).json, bool)
        yield path
        path.unlink()
        wait_for(lambda: server.ask("GET", about).json, lambda info: not info)

    def test_others_are_answered_while_an_image_is_segmented_and_the_next_image_waits(self, server: Server, pipe: Path):
        with ThreadPoolExecutor(6) as clients:
            slow = clients.submit(server.infer, CXR, pipe.stem)
            held = wait_for(lambda: opened(pipe), lambda descriptor: descriptor is not None)
            try:
                following = clients.submit(server.infer, CXR, "phantom_0001")
                others = [
                    clients.submit(server.ask, "GET", "/info/"),
                    clients.submit(server.ask, "GET", "/datastore/"),
                    clients.submit(server.ask_json, "POST", "/activelearning/first", {}),
                ]
                assert not wait(others, timeout=60).not_done
                assert not slow.done()
                assert not following.done()
            finally:
                os.close(held)
                wait_for(lambda: closed(opened(pipe)) or slow.done(), bool)
        assert [other.result().status for other in others] == [200] * 3
        assert slow.result().status == 422
        assert following.result().status == 200


def opened(pipe: Path) -> int | None:
    """A pipe to write to, once somebody reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def closed(descriptor: int | None) -> None:
    """Let whoever reads a pipe find its end."""
    if descriptor is not None:
        os.close(descriptor)

"""What the server refuses before Gradio reads it."""

import json
import urllib.request
from urllib.error import HTTPError

import pytest

from guard import MAX_REQUEST_BYTES


def send(url, body=None, **headers):
    """Send a request, a POST if there is a body. Returns the status, the headers and the text."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, names)) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except HTTPError as error:
        return error.code, error.headers, error.read().decode()


FILE = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nwords\r\n--x--\r\n'
JSON = {"Content_Type": "application/json"}


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/upload?upload_id=1"])
def test_uploads_are_refused(server, path):
    status, _, text = send(server.rstrip("/") + path, FILE, Content_Type="multipart/form-data; boundary=x")
    assert status == 403 and "accepts no files" in text


@pytest.mark.parametrize("chunked", [False, True])
def test_large_requests_are_refused(server, chunked):
    url = server.rstrip("/") + "/gradio_api/call/explain_ablation"
    body = json.dumps({"data": ["x" * MAX_REQUEST_BYTES, "x"]}).encode()
    status, _, text = send(url, iter([body[:9], body[9:]]) if chunked else body, **JSON)
    assert status == 413 and "Shorten your texts" in text


@pytest.mark.parametrize("chunked", [False, True])
def test_ordinary_requests_are_answered(server, chunked):
    url = server.rstrip("/") + "/gradio_api/call/explain_ablation"
    body = json.dumps({"data": ["The capital of Peru is", "capital"]}).encode()
    status, _, text = send(url, iter([body]) if chunked else body, **JSON)
    assert status == 200 and "event_id" in text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info"])
@pytest.mark.parametrize("host", ["demo.hf.space", None])
def test_pages_of_other_sites_may_not_read_answers(server, origin, path, host):
    headers = {"Origin": origin, **({"Host": host} if host else {})}
    status, answer, _ = send(server.rstrip("/") + path, **headers)
    assert status == 200
    assert answer["Access-Control-Allow-Origin"] is None and answer["Access-Control-Allow-Credentials"] is None

"""The endpoints, as programs call them."""

import json
import urllib.error
import urllib.request

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

TEXT = "The ship Brave Falcon has its home in"


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False, download_files=False)


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_there_are_three_endpoints_and_no_more(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert endpoints.keys() == {"/explain_feature", "/explain_patch", "/explain_ablation"}
    names = [each["parameter_name"] for each in endpoints["/explain_patch"]["parameters"]]
    assert names == ["text", "source", "layers", "token", "source_token"]


def test_a_token_is_explained(client):
    found = client.predict(text=TEXT, layer=3, token=-1, api_name="/explain_feature")
    assert found["explanation"]["text"] == "the word Sweden" and found["after"] == "Sweden"
    assert found["control"]["text"] != found["explanation"]["text"]


def test_a_patch_is_explained_and_run(client, show):
    chosen = show.examples["patch"][0]
    found = client.predict(**{name: chosen[name] for name in ("text", "source", "layers", "token", "source_token")},
                           api_name="/explain_patch")  # fmt: skip
    assert found["explanation"]["correct"] and (found["before"], found["after"]) == ("Nepali", "Swahili")


def test_a_removal_is_explained_and_run(client, show):
    chosen = show.examples["ablation"][0]
    found = client.predict(text=chosen["text"], remove=chosen["remove"], api_name="/explain_ablation")
    assert found["explanation"]["changed"] and found["after"] == "Dhaka"


@pytest.mark.parametrize(
    ("arguments", "told"), [(("", 0, 0), "empty"), ((TEXT, 99, 0), "no layer 99"), (("x" * 5000, 0, 0), "Shorten it")]
)
def test_bad_input_is_told_in_a_sentence(client, arguments, told):
    with pytest.raises(AppError, match=told) as error:
        client.predict(*arguments, api_name="/explain_feature")
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("feature", (["a", "list"], 0, 0), "`text` has to be a text; it is \\['a', 'list'\\]"),
        ("feature", (TEXT, "x", 0), "`layer` has to be a whole number; it is 'x'"),
        ("feature", (TEXT, 0, True), "`token` has to be a whole number; it is True"),
        ("patch", (TEXT, TEXT, 3, 0, 0), "`layers` has to be a list of whole numbers; it is 3"),
        ("patch", (TEXT, TEXT, [3, 4.5], 0, 0), "`layers\\[1\\]` has to be a whole number; it is 4.5"),
        ("ablation", (TEXT, None), "`remove` has to be a text; it is None"),
    ],
)
def test_values_of_the_wrong_type_are_bad_input(client, name, arguments, told):
    with pytest.raises(AppError, match=told):
        client.predict(*arguments, api_name=f"/explain_{name}")


def test_tools_are_described_for_mcp(server):
    tools = {
        tool["name"].removeprefix("explainer_"): tool for tool in json.loads(get(f"{server}/gradio_api/mcp/schema")[1])
    }
    assert tools.keys() == {"explain_feature", "explain_patch", "explain_ablation"}
    about = tools["explain_feature"]
    assert about["description"].startswith("Say in words") and "request" not in about["inputSchema"]["properties"]


def test_no_file_is_given_or_taken(server):
    for path in ("/etc/passwd", "app.py", "../../pyproject.toml"):
        status, body = get(f"{server}/gradio_api/file={path}")
        assert status in (403, 404) and "root:" not in body and "import" not in body
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"a" * 2000 + b"\r\n--x--\r\n"
    upload = urllib.request.Request(
        f"{server}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(upload, timeout=30)
    assert error.value.code == 413

"""The API endpoints, called by a client program."""

import json
import urllib.error
import urllib.request

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from selfexplain.tasks import activation_patching, input_ablation

TEXT = "The ship Brave Falcon has its home in"


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False, download_files=False)


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_there_are_exactly_three_endpoints(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert endpoints.keys() == {"/explain_feature", "/explain_patch", "/explain_ablation"}
    names = [parameter["parameter_name"] for parameter in endpoints["/explain_patch"]["parameters"]]
    assert names == ["text", "source", "layers", "token", "source_token"]


def test_explain_feature_describes_a_token(client):
    answer = client.predict(text=TEXT, layer=3, token=-1, api_name="/explain_feature")
    assert answer.keys() == {"task", "prompt", "explanation", "control", "control_from", "before", "after", "exemplars",
                             "shades", "by_layer"}  # fmt: skip
    assert answer["explanation"]["text"] == "the word Sweden" and answer["after"] == "Sweden"
    assert answer["control"]["text"] != answer["explanation"]["text"]


def test_explain_patch_predicts_and_runs_a_patch(client, show):
    example = show.examples[activation_patching.TASK.name][0].model_dump(exclude={"note"}, mode="json")
    answer = client.predict(**example, api_name="/explain_patch")
    assert answer["explanation"]["correct"] and (answer["before"], answer["after"]) == ("Nepali", "Swahili")


def test_explain_ablation_predicts_and_runs_a_removal(client, show):
    example = show.examples[input_ablation.TASK.name][0]
    answer = client.predict(text=example.text, remove=example.remove, api_name="/explain_ablation")
    assert answer["explanation"]["changed"] and answer["after"] == "Dhaka"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("", 0, 0), "empty"), ((TEXT, 99, 0), "There is no layer 99"), (("x" * 5000, 0, 0), "Shorten it")],
)
def test_invalid_input_gives_an_error_message_without_a_traceback(client, arguments, message):
    with pytest.raises(AppError, match=message) as error:
        client.predict(*arguments, api_name="/explain_feature")
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("feature", (["a", "list"], 0, 0), "`text` is \\['a', 'list'\\]. Expected a string"),
        ("feature", (TEXT, "x", 0), "`layer` is 'x'. Expected an integer"),
        ("feature", (TEXT, 0, True), "`token` is True. Expected an integer"),
        ("patch", (TEXT, TEXT, 3, 0, 0), "`layers` is 3. Expected a list of integers"),
        ("patch", (TEXT, TEXT, [3, 4.5], 0, 0), "`layers\\[1\\]` is 4.5. Expected an integer"),
        ("ablation", (TEXT, None), "`remove` is None. Expected a string"),
    ],
)
def test_values_of_an_unexpected_type_give_an_error_message(client, name, arguments, message):
    with pytest.raises(AppError, match=message):
        client.predict(*arguments, api_name=f"/explain_{name}")


def test_mcp_tools_have_descriptions(server):
    tools = {
        tool["name"].removeprefix("explainer_"): tool for tool in json.loads(get(f"{server}/gradio_api/mcp/schema")[1])
    }
    assert tools.keys() == {"explain_feature", "explain_patch", "explain_ablation"}
    tool = tools["explain_feature"]
    assert tool["description"].startswith("Describe what the target model's residual stream encodes")
    assert "request" not in tool["inputSchema"]["properties"]


def test_files_are_not_served(server):
    for path in ("/etc/passwd", "app.py", "../../pyproject.toml"):
        status, body = get(f"{server}/gradio_api/file={path}")
        assert status in (403, 404) and "root:" not in body and "import" not in body

"""Calls to the Hub: temporary failures are retried, permanent ones become errors that say what to do."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from hub.published import MODEL
from hub.server import TOKEN, Fault
from selfexplain.errors import SelfExplainError
from selfexplain.publishing.hub_calls import call_hub, report_errors, repository_state, token_for


def test_waits_double_and_are_at_least_what_the_hub_asks_for(hub, caplog):
    hub.add("model", MODEL)
    rate_limit = {"headers": {"Retry-After": "30"}, "code": 429}
    hub.faults += [Fault("GET /api/models", code=503, times=2), Fault("GET /api/models", **rate_limit)]
    hub.faults += [Fault("GET /api/models", code=503)]
    assert call_hub(HfApi().model_info, MODEL).id == MODEL
    assert hub.waits == [1, 2, 30, 60]
    assert f"{MODEL}: 429. Trying again in 30 s." in caplog.messages


@pytest.mark.parametrize("error", [ConnectionError("reset"), TimeoutError("late"), HTTPError("broken")])
def test_last_error_is_raised_after_six_attempts(hub, error):
    calls = []

    def fail(name):
        calls.append(name)
        raise error

    with pytest.raises(type(error), match=str(error)):
        call_hub(fail, "lab/x")
    assert calls == ["lab/x"] * 6
    assert hub.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("error", [ValueError("bad"), OfflineModeIsEnabled("offline"), KeyError("missing")])
def test_other_errors_are_not_retried(hub, error):
    def fail():
        raise error

    with pytest.raises(type(error), match=error.args[0]):
        call_hub(fail)
    assert hub.waits == []


@pytest.mark.parametrize(("code", "n_waits"), [(403, 0), (404, 0), (422, 0), (408, 5), (412, 5), (429, 5), (502, 5)])
def test_status_codes_that_may_not_recur_are_retried(hub, code, n_waits):
    hub.faults.append(Fault("GET /api/models", code=code, times=10))
    with pytest.raises(HfHubHTTPError, match=str(code)):
        call_hub(HfApi().model_info, MODEL)
    assert len(hub.waits) == n_waits


def test_failed_upload_raises_its_cause(hub):
    def fail(cause):
        raise RuntimeError("Error while uploading") from cause

    with pytest.raises(TimeoutError, match="late"):
        call_hub(fail, TimeoutError("late"))
    with pytest.raises(ConnectionError, match="Error while uploading"):
        call_hub(fail, None)


def test_state_of_a_missing_repository_or_branch_is_none(hub):
    hub.add("model", MODEL)
    assert repository_state(MODEL, HfApi(), "model", None).sha
    assert repository_state(MODEL, HfApi(), "model", "draft") is None
    assert repository_state("lab/absent", HfApi(), "model", None) is None


def test_trusted_publishing_requests_a_token_for_the_repository(monkeypatch):
    import os

    with token_for("dataset", "lab/rows"):
        assert "HF_OIDC_RESOURCE" not in os.environ
    monkeypatch.setenv("HF_OIDC_RESOURCE", "lab/first")
    with token_for("dataset", "lab/rows"):
        assert os.environ["HF_OIDC_RESOURCE"] == "datasets/lab/rows"
    with token_for("model", "lab/x"):
        assert os.environ["HF_OIDC_RESOURCE"] == "lab/x"
    assert os.environ["HF_OIDC_RESOURCE"] == "lab/first"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            Fault("GET", code=401, message="Bad credentials.", times=9),
            r"\(401\): Bad credentials\. Log in with `hf auth",
        ),
        (Fault("GET", code=403, message="no rights", times=9), r"\(403\): no rights\. Ask for write access to lab"),
        (Fault("GET", code=422, message="bad name", times=9), r"\(422\): bad name\. Change what was refused"),
        (
            Fault("GET", code=503, message="down", times=9),
            r"\(503\): down\. The Hub is overloaded or unavailable.*the same command continues",
        ),
        (Fault("GET", kind="drop", times=9), r"cannot be reached \(.*Check the network and HF_ENDPOINT"),
    ],
)
def test_errors_say_what_to_do(hub, fault, message):
    hub.faults.append(fault)
    api = HfApi()
    with pytest.raises(SelfExplainError, match=message), report_errors(api, "lab"):
        call_hub(api.model_info, MODEL)


def test_errors_contain_no_token(hub):
    hub.faults.append(Fault("GET", code=403, message=f"no rights for {TOKEN}", times=9))
    api = HfApi()
    with pytest.raises(SelfExplainError, match=r"no rights for \*\*\*") as error, report_errors(api, "lab"):
        call_hub(api.model_info, MODEL)
    assert TOKEN not in str(error.value)


def test_missing_repository_and_offline_mode_are_explained(hub, monkeypatch):
    from huggingface_hub import constants

    api = HfApi()
    with pytest.raises(SelfExplainError, match="Create the repository on the Hub first"), report_errors(api, "lab"):
        call_hub(api.model_info, "lab/absent")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SelfExplainError, match="HF_HUB_OFFLINE is set"), report_errors(api, "lab"):
        raise OfflineModeIsEnabled("offline")

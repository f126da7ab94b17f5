"""The arguments of `save_pretrained` are those of transformers; others are refused."""

from types import SimpleNamespace

import pytest

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM


@pytest.fixture
def explainer():
    return SelfExplainerForCausalLM.from_base(tiny_model("llama"))


@pytest.fixture
def calls(monkeypatch):
    """The calls of the Hub's interface: name, arguments."""
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            calls.append(("create_repo", repo_id, options))
            return SimpleNamespace(repo_id=f"org/{repo_id}" if "/" not in repo_id else repo_id)

        def create_branch(self, repo_id, **options):
            calls.append(("create_branch", repo_id, options))

        def upload_folder(self, allow_patterns, folder_path, **options):
            calls.append(("upload_folder", sorted(allow_patterns), options))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return calls


def test_new_and_changed_files_are_pushed(explainer, calls, tmp_path):
    directory = tmp_path / "mine"
    (directory / "notes").mkdir(parents=True)
    (directory / "notes" / "private.txt").write_text("not written by save_pretrained")
    explainer.save_pretrained(
        directory, push_to_hub=True, repo_id="lab/explainer", private=True, token="t", revision="v2",
        commit_message="First", create_pr=True,
    )  # fmt: skip
    files = sorted(f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file())
    assert "merged/model.safetensors" in files and "config.json" in files
    files.remove("notes/private.txt")
    assert calls == [
        ("token", "t"),
        ("create_repo", "lab/explainer", {"private": True, "exist_ok": True}),
        ("create_branch", "lab/explainer", {"branch": "v2", "exist_ok": True}),
        ("upload_folder", files, {
            "repo_id": "lab/explainer", "revision": "v2", "commit_message": "First", "create_pr": True,
        }),
    ]  # fmt: skip


def test_the_name_of_the_repository_is_that_of_the_directory(explainer, calls, tmp_path):
    explainer.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert calls[1] == ("create_repo", "mine", {"private": None, "exist_ok": True})
    assert calls[2][2] == {"repo_id": "org/mine", "commit_message": "Upload explainer"}


def test_an_explainer_of_a_local_base_is_not_pushed(tmp_path, calls):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    from transformers import AutoModelForCausalLM

    explainer = SelfExplainerForCausalLM.from_base(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    for push in (
        lambda: explainer.push_to_hub("lab/explainer"),
        lambda: explainer.save_pretrained(tmp_path / "saved", push_to_hub=True),
    ):
        with pytest.raises(SelfExplainError, match=r"is the local directory .*Push the base and set"):
            push()
    assert not calls and not (tmp_path / "saved").exists()


def test_other_processes_write_nothing(explainer, calls, tmp_path):
    explainer.save_pretrained(tmp_path / "saved", is_main_process=False, push_to_hub=True)
    assert not calls and not (tmp_path / "saved").exists()


def test_values_that_change_nothing_are_accepted(explainer, tmp_path):
    explainer.save_pretrained(
        tmp_path, variant=None, safe_serialization=True, save_peft_format=True, save_original_format=True, token="t"
    )
    assert (tmp_path / "config.json").is_file()


REFUSED = {
    "a typo": ({"max_shard_sise": "1GB"}, "has no argument 'max_shard_sise'. Did you mean 'max_shard_size'"),
    "an own argument": ({"lora_dtyp": "float16"}, "has no argument 'lora_dtyp'. Did you mean 'lora_dtype'"),
    "an unknown argument": ({"zzz": 1}, "has no argument 'zzz'. Its arguments are lora_dtype"),
    "a pickle": ({"safe_serialization": False}, "Explainers are saved with safe_serialization=True"),
    "a variant": ({"variant": "fp16"}, "got variant='fp16'. Explainers are saved with variant=None"),
    "no push": ({"repo_id": "lab/x"}, "got repo_id='lab/x', which has no effect without push_to_hub=True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_without_an_effect_are_refused(explainer, tmp_path, case):
    arguments, message = REFUSED[case]
    with pytest.raises(SelfExplainError) as raised:
        explainer.save_pretrained(tmp_path / "saved", **arguments)
    assert message in str(raised.value)
    assert not (tmp_path / "saved").exists()

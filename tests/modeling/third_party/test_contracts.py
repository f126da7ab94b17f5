"""The contract of a checkpoint is determined by its files, or the error asks for the missing values."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.third_party.checkpoint import Checkpoint
from selfexplain.modeling.third_party.contracts import CONTRACTS, FAMILIES, find_marker_ids, recognise, settle
from third_party_checkpoints import oracle_config, sidecar, write_oracle_config, write_sidecar


def checkpoint(name="theirs", **content):
    return Checkpoint(name, name, {}, **content)


def test_every_contract_belongs_to_a_family():
    assert set(CONTRACTS) == set(FAMILIES) - {"activation_oracle"}
    assert {name: contract.family for name, contract in CONTRACTS.items()} == {name: name for name in CONTRACTS}


@pytest.mark.parametrize(
    ("files", "family"),
    [
        (checkpoint(sidecar={}), "nla"),
        (checkpoint(oracle={}), "activation_oracle"),
        (checkpoint("Transluce/anything"), "transluce"),
        (checkpoint(model={"architectures": ["ContinuousLlama"]}), "transluce"),
    ],
)
def test_a_family_is_recognised_by_its_files(files, family):
    assert recognise(files) == family


def test_a_checkpoint_whose_files_show_no_family_is_refused():
    with pytest.raises(SelfExplainError, match=r"Which family is it\? Pass family= one of nla, .*selfie"):
        recognise(checkpoint(model={"architectures": ["LlamaForCausalLM"]}))


def test_an_unknown_family_is_refused(tokenizer):
    with pytest.raises(SelfExplainError, match=r"The family 'oracle' is unknown\. Pass family= one of nla"):
        settle(checkpoint(), "oracle", tokenizer)


# ---------------------------------------------------------------- Activation Oracles


@pytest.mark.parametrize(
    ("name", "created", "operation"),
    [
        ("oracle", "2025-10-26T00:00:00+00:00", "add"),
        ("oracle", "2025-10-25T23:59:59+00:00", "replace"),
        ("oracle_addition", "2025-10-01T08:00:00+00:00", "add"),
        ("oracle_adding", None, "add"),
    ],
)
def test_the_operation_of_an_oracle_follows_from_its_name_or_date(tokenizer, name, created, operation):
    files = checkpoint(f"someone/{name}", oracle=oracle_config(created_at_utc=created))
    contract = settle(files, "activation_oracle", tokenizer)
    assert (contract.operation, contract.family) == (operation, f"activation_oracle_{operation}")
    assert contract.layers == ((1,), (2,))


def test_an_oracle_without_name_or_date_is_refused(tokenizer):
    with pytest.raises(SelfExplainError, match=r"adds its vector .* or replaces it .*activation_oracle_replace"):
        settle(checkpoint(oracle=oracle_config()), "activation_oracle", tokenizer)


def test_an_oracle_with_an_unknown_prompt_is_refused(save_adapter):
    directory = save_adapter("llama", "oracle_addition")
    write_oracle_config(directory, prefix_template="{layers}: {acts}")
    with pytest.raises(SelfExplainError, match="What prompt was this oracle trained on"):
        SelfExplainerForCausalLM.from_third_party(directory)


def test_a_placeholder_of_several_tokens_is_refused(tokenizer):
    files = checkpoint("addition", oracle=oracle_config(special_token="many tokens"))
    with pytest.raises(SelfExplainError, match=r"placeholder 'many tokens' is \d+ tokens of this tokenizer"):
        settle(files, "activation_oracle", tokenizer)


def test_a_family_of_user_turns_needs_a_chat_template(tokenizer):
    class Plain:
        chat_template = None

        def __call__(self, *args, **options):
            return tokenizer(*args, **options)

    with pytest.raises(SelfExplainError, match="this tokenizer has no chat template"):
        settle(checkpoint("addition", oracle=oracle_config()), "activation_oracle", Plain())


# ---------------------------------------------------------------- natural-language autoencoders


@pytest.mark.parametrize(
    ("scale", "norm", "expected"),
    [(150.0, "unit", 150.0), (80, "unit", 80.0), (None, "raw", 1.0), ("sqrt_d_model", "unit", math.sqrt(32))],
)
def test_the_scale_of_a_verbalizer(tokenizer, scale, norm, expected):
    files = checkpoint(sidecar=sidecar(tokenizer, extraction={"injection_scale": scale}))
    contract = settle(files, "nla", tokenizer)
    assert (contract.norm, contract.scale, contract.layers) == (norm, expected, ((2,),))
    tokens = files.sidecar["tokens"]
    assert contract.placeholder_id == tokens["injection_token_id"]
    assert contract.neighbour_ids == (tokens["injection_left_neighbor_id"], tokens["injection_right_neighbor_id"])
    assert contract.template == "Say in {tags} what it means: <concept>{activation}</concept>"


def templates(prompt):
    """Change of a sidecar to a different prompt."""
    return {"prompt_templates": {"av": prompt}}


def test_a_community_verbalizer_is_recognised_by_its_kind(tokenizer):
    content = sidecar(tokenizer, kind="nla_dataset", extraction={"layer_index": 3})
    del content["extraction_layer_index"]
    contract = settle(checkpoint(adapter={"peft_type": "LORA"}, sidecar=content), "nla", tokenizer)
    assert (contract.family, contract.operation, contract.layers) == ("nla_community", "add", ((3,),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extraction": {}}, "To what norm was the vector scaled"),
        ({"extraction": {"injection_scale": "big"}}, "'big', expected a positive number, null or sqrt_d_model"),
        ({"extraction": {"injection_scale": -1.0}}, "-1.0, expected a positive number, null or sqrt_d_model"),
        ({"role": "critic"}, "Load the other half"),
        ({"prompt_templates": {"ar": "{explanation}"}}, "What prompt was this verbalizer trained on"),
        ({"tokens": {"injection_char": "㈎", "injection_token_id": 3}}, "trained with a different tokenizer"),
        (templates("As {tags}: {injection_char}"), r"a field other than {injection_char}: {tags}\. Double braces"),
        (templates('{"a": {injection_char}}'), r'a field other than {injection_char}: {"a"}'),
        (templates("{injection_char} {injection_char!r:>9}"), "a field other than {injection_char}"),
        (templates("{injection_char} }"), r"has braces that are not a field .*Double them, as in {{ and }}"),
        (templates("{ {injection_char}"), "has braces that are not a field|a field other than"),
    ],
    ids=[
        "scale",
        "scale_value",
        "negative_scale",
        "role",
        "prompt",
        "token",
        "field",
        "json",
        "format",
        "end",
        "begin",
    ],
)
def test_an_incomplete_sidecar_is_refused(tokenizer, change, message):
    with pytest.raises(SelfExplainError, match=message):
        settle(checkpoint(sidecar=sidecar(tokenizer, **change)), "nla", tokenizer)


def test_a_verbalizer_without_a_sidecar_is_refused(save_base):
    with pytest.raises(SelfExplainError, match=r"has no nla_meta\.yaml"):
        SelfExplainerForCausalLM.from_third_party(save_base("llama"), family="nla")


def test_a_slot_between_other_tokens_is_refused(save_base, tokenizer):
    directory = save_base("llama", "nla-av")
    content = sidecar(tokenizer)
    content["tokens"]["injection_left_neighbor_id"] += 1
    write_sidecar(directory, content)
    with pytest.raises(SelfExplainError, match=r"slot of a vector is between the tokens .* the contract requires"):
        SelfExplainerForCausalLM.from_third_party(directory)


# ---------------------------------------------------------------- Transluce, LatentQA


@pytest.mark.parametrize(
    ("name", "chat", "template"),
    [
        ("Transluce/features_explain_llama", False, "At layer {layer}, {activation} encodes "),
        ("Transluce/act_patch_llama", None, None),
        ("Transluce/input_ablation_llama", None, None),
    ],
)
def test_the_prompt_of_a_transluce_explainer_follows_from_its_task(tokenizer, name, chat, template):
    contract = settle(checkpoint(name), "transluce", tokenizer)
    assert (contract.chat, contract.template) == (chat, template)


def test_a_transluce_prompt_that_may_be_chat_or_plain_is_refused(save_base):
    directory = save_base("llama", "renamed")
    with pytest.raises(SelfExplainError, match=r"plain prompts .* or on user turns"):
        SelfExplainerForCausalLM.from_third_party(directory, family="transluce")
    contract = replace(CONTRACTS["transluce"], chat=False)
    assert not SelfExplainerForCausalLM.from_third_party(directory, contract=contract).processor.chat


class Vocabulary:
    """A tokenizer that only has a vocabulary."""

    def __init__(self, *tokens):
        self.tokens = tokens

    def get_vocab(self):
        return {token: index for index, token in enumerate(self.tokens)}


def test_marker_tokens_are_found_in_the_vocabulary():
    qwen = Vocabulary("a", "<|vision_start|>", "<|vision_end|>")
    assert find_marker_ids(checkpoint(), qwen) == (1, 2)
    with pytest.raises(SelfExplainError, match="Which tokens are before and after the vector"):
        find_marker_ids(checkpoint(), Vocabulary("a"))


def test_latentqa_needs_the_tokens_of_its_chat():
    with pytest.raises(SelfExplainError, match="lacks the control tokens of Llama 3's chat"):
        settle(checkpoint(), "latentqa", Vocabulary("a"))


# ---------------------------------------------------------------- damaged values

JSON = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["av", "injection_scale", "injection_char"]), st.text(), max_size=2),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_with_any_value_gives_a_contract_or_an_error_that_names_the_file(tokenizer, data):
    oracle = oracle_config(created_at_utc="2026-01-01T00:00:00+00:00")
    family, content = data.draw(st.sampled_from([("activation_oracle", oracle), ("nla", sidecar(tokenizer))]))
    part = data.draw(st.sampled_from([content, *(value for value in content.values() if isinstance(value, dict))]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(JSON)
    files = checkpoint(oracle=content, sidecar=content)
    try:
        contract = settle(files, family, tokenizer)
    except SelfExplainError as error:
        assert str(error).startswith("theirs")
    else:
        assert isinstance(contract, InjectionConfig)

"""Tests of generation, in place of transformers' own ones, which its source distribution does not contain.

Each compares a way to generate with plain greedy decoding, or with a loop over forward passes.
"""

from typing import Any

import torch
from torch import Tensor

from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

N_NEW = 5
PER_VECTOR = ("activation_positions", "marker_positions")


class GenerationTests:
    """A mixin for test cases with a `model_tester`."""

    model_tester: Any

    def _explainer(self, seed: int = 0) -> tuple[SelfExplainerForCausalLM, dict[str, Tensor]]:
        torch.manual_seed(seed)
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        explainer = SelfExplainerForCausalLM(config).eval()
        explainer.generation_config.eos_token_id = None
        explainer.generation_config.pad_token_id = 0
        for parameter in explainer.parameters():  # so that answers differ
            parameter.data *= 3 if parameter.ndim > 1 else 1
        return explainer, {name: tensor[:3] for name, tensor in inputs.items()}

    @staticmethod
    def _generate(explainer: SelfExplainerForCausalLM, inputs: dict[str, Tensor], **options: Any) -> Any:
        return explainer.generate(**inputs, max_new_tokens=N_NEW, do_sample=False, **options)

    def _equals_greedy(self, **options: Any) -> None:
        explainer, inputs = self._explainer()
        expected = self._generate(explainer, inputs)
        assert self._generate(explainer, inputs, **options).tolist() == expected.tolist()

    @torch.no_grad()
    def test_greedy_equals_forward_passes(self):
        explainer, inputs = self._explainer()
        extended = dict(inputs)
        for _ in range(N_NEW):
            following = explainer(**extended).logits[:, -1:].argmax(-1)
            extended["input_ids"] = torch.cat([extended["input_ids"], following], 1)
            extended["attention_mask"] = torch.ones_like(extended["input_ids"])
        assert self._generate(explainer, inputs).tolist() == extended["input_ids"].tolist()
        if self.model_tester.vectors:
            text = {name: tensor for name, tensor in inputs.items() if name in ("input_ids", "attention_mask")}
            assert self._generate(explainer, text).tolist() != extended["input_ids"].tolist()

    def test_greedy_without_cache(self):
        self._equals_greedy(use_cache=False)

    def test_greedy_with_static_cache(self):
        self._equals_greedy(cache_implementation="static")

    def test_greedy_with_chunked_prefill(self):
        self._equals_greedy(prefill_chunk_size=3)

    def test_assisted_decoding(self):
        for seed in (0, 1):
            explainer, inputs = self._explainer()
            assistant, _ = self._explainer(seed)
            for row in range(2):
                one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
                expected = self._generate(explainer, one)
                for helper in (assistant, assistant.language_model):
                    assert self._generate(explainer, one, assistant_model=helper).tolist() == expected.tolist()

    def test_prompt_lookup(self):
        explainer, inputs = self._explainer()
        one = {name: tensor[:1] for name, tensor in inputs.items()}
        assert (
            self._generate(explainer, one, prompt_lookup_num_tokens=2).tolist()
            == self._generate(explainer, one).tolist()
        )

    def test_beams_and_sequences_keep_their_rows(self):
        explainer, inputs = self._explainer()
        options = {"num_beams": 3, "num_return_sequences": 2}
        batched = self._generate(explainer, inputs, **options)
        assert batched.shape == (6, inputs["input_ids"].shape[1] + N_NEW)
        for row in range(3):
            one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
            assert self._generate(explainer, one, **options).tolist() == batched[2 * row : 2 * row + 2].tolist()

    def test_beams_without_cache(self):
        explainer, inputs = self._explainer()
        cached = self._generate(explainer, inputs, num_beams=2)
        assert self._generate(explainer, inputs, num_beams=2, use_cache=False).tolist() == cached.tolist()

    def test_samples_do_not_depend_on_the_cache(self):
        explainer, inputs = self._explainer()
        samples = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            samples.append(
                explainer.generate(
                    **inputs, max_new_tokens=N_NEW, do_sample=True, num_return_sequences=2, use_cache=use_cache
                )
            )
        assert samples[0].tolist() == samples[1].tolist() and len(samples[0]) == 6

    def test_left_padding(self):
        explainer, inputs = self._explainer()
        expected = self._generate(explainer, inputs)[:, inputs["input_ids"].shape[1] :]
        pad = torch.zeros(3, 4, dtype=torch.long)
        padded = inputs | {name: torch.cat([pad, inputs[name]], 1) for name in ("input_ids", "attention_mask")}
        padded |= {name: inputs[name] + 4 for name in PER_VECTOR if name in inputs}
        assert self._generate(explainer, padded)[:, padded["input_ids"].shape[1] :].tolist() == expected.tolist()

    def test_embeddings_as_prompt(self):
        explainer, inputs = self._explainer()
        expected = self._generate(explainer, inputs)[:, inputs["input_ids"].shape[1] :]
        rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
        embedded = explainer.get_input_embeddings()(inputs["input_ids"])
        assert self._generate(explainer, rest, inputs_embeds=embedded).tolist() == expected.tolist()

    def test_continuing_from_a_cache(self):
        explainer, inputs = self._explainer()
        first = self._generate(explainer, inputs, return_dict_in_generate=True)
        longer = inputs | {"input_ids": first.sequences, "attention_mask": torch.ones_like(first.sequences)}
        continued = self._generate(explainer, longer, past_key_values=first.past_key_values)
        assert continued.tolist() == self._generate(explainer, longer).tolist()

    def test_outputs_of_every_step(self):
        explainer, inputs = self._explainer()
        explainer.set_attn_implementation("eager")
        names = ("scores", "logits", "hidden_states", "attentions")
        output = self._generate(
            explainer, inputs, return_dict_in_generate=True, **{f"output_{name}": True for name in names}
        )
        assert {name: len(output[name]) for name in names} == dict.fromkeys(names, N_NEW)
        assert len(output.hidden_states[0]) == self.model_tester.num_hidden_layers + 1
        assert output.scores[0].shape == (3, self.model_tester.vocab_size)

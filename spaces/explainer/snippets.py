"""Python code that asks the same question as the demo."""

from collections.abc import Sequence
from dataclasses import dataclass

from sae_features import Feature


@dataclass(frozen=True)
class Snippets:
    """Python code for one explainer.

    Attributes:
        explainer: Argument of `from_pretrained`.
        target: Name of the target if it is not the explainer's own base.
    """

    explainer: str
    target: str | None = None

    @property
    def _load(self) -> str:
        names = "SelfExplainerForCausalLM, load_target" if self.target else "SelfExplainerForCausalLM"
        target = f"target = load_target({self.target!r})\n" if self.target else ""
        return f"""from selfexplain import {names}

explainer = SelfExplainerForCausalLM.from_pretrained({self.explainer!r})
{target}"""

    @property
    def _target_argument(self) -> str:
        return ", target=target" if self.target else ""

    def feature(self, text: str, layer: int, token: int) -> str:
        return f"""{self._load}vector = explainer.capture({text!r}, layers=[{layer}]{self._target_argument})[0, {token}]
print(explainer.explain_feature(vector, layer={layer}))"""

    def direction(self, feature: Feature) -> str:
        return f"""import torch

{self._load}vector = torch.tensor([{", ".join(f"{x:.4g}" for x in feature.vector)}])
print(explainer.explain_feature(vector, layer={feature.layer}))"""

    def patch(self, text: str, source: str, layers: Sequence[int], token: int, source_token: int) -> str:
        target = self._target_argument
        return f"""{self._load}layers = {list(layers)}
vector = explainer.capture({source!r}, layers{target})[:, {source_token}].mean(0)
explanation = explainer.explain_patch({text!r}, vector, layers, position={token}{target})
print(explanation, explainer.verify(explanation{target}), sep="\\n")"""

    def ablation(self, text: str, remove: str) -> str:
        target = self._target_argument
        return f"""{self._load}explanation = explainer.explain_ablation({text!r}, remove={remove!r}{target})
print(explanation, explainer.verify(explanation{target}), sep="\\n")"""

"""Overrides that make the quickstart small, and a counter of the models in memory."""

import weakref
from contextlib import contextmanager
from unittest import mock

LITTLE = [
    "evaluation.without_vectors=true",
    "feature_description.layers=[1, 4]",
    "feature_description.n_saes=1",
    "feature_description.n_features=384",
    "feature_description.k=4",
    "feature_description.n_tokens=60000",
    "feature_description.n_candidates=1",
    "feature_description.grammar=words",
    "feature_description.rows_per_feature=1",
    "activation_patching.n_pairs=80",
    "activation_patching.n_rows=200",
    "input_ablation.n_questions=600",
    "input_ablation.n_rows=150",
    "training.epochs=0.2",
    "evaluation.rows_limit=24",
    "evaluation.n_resamples=50",
]


@contextmanager
def counting_models():
    """Yield a list to which every load of a model appends the number of models in memory, including the new one.

    Models that are unreachable but not yet collected count as well.
    """
    from transformers import AutoModelForCausalLM

    load, loaded, held = AutoModelForCausalLM.from_pretrained, [], []

    def counted(*args, **options):
        result = load(*args, **options)
        model = result[0] if isinstance(result, tuple) else result  # with `output_loading_info`
        loaded.append(weakref.ref(model))
        held.append(sum(one() is not None for one in loaded))
        return result

    with mock.patch.object(AutoModelForCausalLM, "from_pretrained", counted):
        yield held

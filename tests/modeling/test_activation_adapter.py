"""Each adapter kind computes its map, the closed-form fit is optimal, and each kind can be trained."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.runs.recipe import load_recipe
from selfexplain.target.load import load_target
from selfexplain.tasks import feature_description
from selfexplain.training.pairing import paired_activations
from selfexplain.training.train import train

LAYERS = [2, 5]
PAGE = Path(__file__).parents[2] / "docs" / "internals" / "adapters.md"
COMMANDS = re.findall(r"^selfexplain run quickstart (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def paired(d_target=6, d_explainer=8, n=200):
    """Vectors, their noisy images under one linear map per layer, and the maps."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, d_target, d_explainer, generator=generator)
    x = torch.randn(2, n, d_target, generator=generator)
    return x, x @ maps + 0.01 * torch.randn(2, n, d_explainer, generator=generator), maps


def error(adapter, x, y):
    return sum((adapter(x[i], torch.full((x.shape[1],), layer)) - y[i]).norm() for i, layer in enumerate(LAYERS)).item()


def test_fit_finds_the_linear_map_of_each_layer():
    x, y, maps = paired()
    adapter = ActivationAdapter(8, 6, "linear", LAYERS)
    adapter.fit(x, y, ridge=1e-6)
    torch.testing.assert_close(adapter.weight.detach(), maps, atol=0.01, rtol=0.01)
    mixed = adapter(torch.stack([x[0, 0], x[1, 0], x[0, 1]]), torch.tensor([2, 5, 2]))
    torch.testing.assert_close(mixed, torch.stack([y[0, 0], y[1, 0], y[0, 1]]), atol=0.1, rtol=0.1)


def test_fit_finds_the_best_map_of_a_given_rank():
    x, y, _ = paired()
    adapter = ActivationAdapter(8, 6, "low_rank", LAYERS, rank=2)
    adapter.fit(x, y, ridge=1e-6)
    fitted = error(adapter, x, y)
    for parameter in (adapter.down, adapter.up):
        for _ in range(3):
            moved = ActivationAdapter(8, 6, "low_rank", LAYERS, rank=2)
            moved.load_state_dict(adapter.state_dict())
            getattr(moved, "down" if parameter is adapter.down else "up").data += 0.01 * torch.randn_like(parameter)
            assert error(moved, x, y) > fitted
    full = ActivationAdapter(8, 6, "low_rank", LAYERS, rank=6)
    full.fit(x, y, ridge=1e-6)
    assert error(full, x, y) < 0.1 * fitted


def test_mlp_starts_as_the_fitted_linear_map_and_has_gradients_for_the_rest():
    x, y, _ = paired()
    linear, mlp = ActivationAdapter(8, 6, "linear", LAYERS), ActivationAdapter(8, 6, "mlp", LAYERS, rank=4)
    for adapter in (linear, mlp):
        adapter.reset()
        adapter.fit(x, y)
    layers = torch.full((200,), 5)
    torch.testing.assert_close(mlp(x[1], layers), linear(x[1], layers))
    mlp(x[1], layers).square().sum().backward()
    assert mlp.up.grad[1].abs().max() > 0 and mlp.up.grad[0].abs().max() == 0


def test_scale_has_one_gain_per_layer():
    x = torch.randn(2, 50, 8)
    adapter = ActivationAdapter(8, 8, "scale", LAYERS)
    adapter.fit(x, torch.stack([3 * x[0], -0.5 * x[1]]))
    torch.testing.assert_close(adapter.gain.detach(), torch.tensor([3.0, -0.5]))
    torch.testing.assert_close(adapter(x[1], torch.full((50,), 5)), -0.5 * x[1])


SHAPES = {
    "identity": {},
    "scale": {"gain": (2,)},
    "linear": {"weight": (2, 8, 8)},
    "low_rank": {"down": (2, 8, 3), "up": (2, 3, 8)},
    "mlp": {"weight": (2, 8, 8), "down": (2, 8, 3), "up": (2, 3, 8)},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_kind_has_the_parameters_of_its_map_in_float32(kind):
    torch.set_default_dtype(torch.bfloat16)  # as while transformers loads a model in this precision
    try:
        adapter = ActivationAdapter(8, 8, kind, tuple(LAYERS), rank=3)
    finally:
        torch.set_default_dtype(torch.float32)
    parameters = dict(adapter.named_parameters())
    assert {name: tuple(parameter.shape) for name, parameter in parameters.items()} == {
        "markers": (2, 8),
        **SHAPES[kind],
    }
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert adapter.layers == LAYERS and not any(parameter.any() for parameter in parameters.values())


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_each_vector_gets_the_map_of_its_layer_in_float32(kind, dtype):
    generator = torch.Generator().manual_seed(4)
    adapter = ActivationAdapter(8, 8, kind, LAYERS, rank=3)
    for parameter in adapter.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    vectors, layers = torch.randn(5, 8, generator=generator).to(dtype), [5, 2, 2, 5, 5]

    def gelu(x):
        return [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x]

    mapped = adapter(vectors, torch.tensor(layers))
    p = {name: parameter.detach().double().numpy() for name, parameter in adapter.named_parameters()}
    for vector, layer, output in zip(vectors.double().numpy(), layers, mapped, strict=True):
        n = LAYERS.index(layer)
        if kind == "identity":
            expected = vector
        elif kind == "scale":
            expected = p["gain"][n] * vector
        elif kind == "low_rank":
            expected = vector @ p["down"][n] @ p["up"][n]
        else:
            expected = vector @ p["weight"][n]
            if kind == "mlp":
                expected = expected + np.array(gelu(vector @ p["down"][n])) @ p["up"][n]
        np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    assert mapped.dtype == torch.float32


def test_random_initial_maps_preserve_the_norm_and_depend_on_the_seed():
    adapters = {kind: ActivationAdapter(8, 6, kind, LAYERS, rank=3) for kind in ("linear", "low_rank", "mlp")}
    for adapter in adapters.values():
        adapter.reset(7)

    def draws(*shapes):
        generator = torch.Generator().manual_seed(7)
        return [torch.randn(2, *shape, generator=generator) / math.sqrt(shape[0]) for shape in shapes]

    (weight,) = draws((6, 8))
    torch.testing.assert_close(adapters["linear"].weight.detach(), weight)
    down, up = draws((6, 3), (3, 8))
    torch.testing.assert_close(adapters["low_rank"].down.detach(), down)
    torch.testing.assert_close(adapters["low_rank"].up.detach(), up)
    weight, down = draws((6, 8), (6, 3))
    torch.testing.assert_close(adapters["mlp"].weight.detach(), weight)
    torch.testing.assert_close(adapters["mlp"].down.detach(), down)
    assert not adapters["mlp"].up.any()


def test_an_mlp_of_equal_widths_starts_with_a_random_bottleneck():
    adapter = ActivationAdapter(8, 8, "mlp", LAYERS, rank=3)
    adapter.reset(7)
    down = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(7)) / math.sqrt(8)
    torch.testing.assert_close(adapter.down.detach(), down)
    assert not adapter.up.any()


def ridge_weight(x, y, ridge):
    """The ridge regression weight of one layer, computed with numpy."""
    x, y = x.double().numpy(), y.double().numpy()
    penalty = ridge * np.mean(np.sum(x * x, axis=0))
    return np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1])) @ x.T @ y


def test_the_ridge_penalty_is_a_fraction_of_the_mean_of_the_gram_diagonal():
    x, y, _ = paired()
    x = 3 * x
    adapter = ActivationAdapter(8, 6, "linear", LAYERS)
    adapter.fit(x, y, ridge=0.5)
    for layer in range(2):
        expected = ridge_weight(x[layer], y[layer], 0.5)
        np.testing.assert_allclose(adapter.weight[layer].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [200, 5])
def test_a_rank_above_that_of_the_map_leaves_the_rest_of_the_bottleneck_at_zero(n):
    x, y, _ = paired(n=n)
    adapter = ActivationAdapter(8, 6, "low_rank", LAYERS, rank=10)
    adapter.reset()
    adapter.fit(x, y, ridge=0.1)
    used = min(n, 8)
    assert not adapter.down[:, :, used:].any() and not adapter.up[:, used:].any()
    for layer in range(2):
        product = (adapter.down[layer] @ adapter.up[layer]).detach().numpy()
        np.testing.assert_allclose(product, ridge_weight(x[layer], y[layer], 0.1), rtol=1e-4, atol=1e-4)


def test_there_is_nothing_to_fit_for_the_identity():
    x = torch.randn(2, 20, 8)
    adapter = ActivationAdapter(8, 8, "identity", LAYERS)
    adapter.fit(x, 2 * x)
    torch.testing.assert_close(adapter(x[0], torch.full((20,), 2)), x[0])


def test_the_identity_needs_no_layers_and_the_smallest_rank_is_1():
    vectors = torch.randn(2, 8)
    assert torch.equal(ActivationAdapter(8, 8)(vectors, torch.tensor([3, 99])), vectors)
    assert ActivationAdapter(8, 8, "low_rank", [1], rank=1).down.shape == (1, 8, 1)


@pytest.mark.parametrize("kind", ["identity", "scale", "linear", "mlp"])
def test_the_initial_map_is_the_identity_if_widths_are_equal(kind):
    adapter = ActivationAdapter(8, 8, kind, LAYERS, rank=3)
    adapter.reset()
    v = torch.randn(4, 8)
    torch.testing.assert_close(adapter(v, torch.tensor([2, 5, 5, 2])), v)


@pytest.mark.parametrize("kind", ["identity", "scale", "linear", "low_rank", "mlp"])
def test_a_zero_vector_stays_zero(kind):
    adapter = ActivationAdapter(8, 8, kind, LAYERS, rank=3)
    adapter.reset()
    assert adapter(torch.zeros(1, 8), torch.tensor([5])).abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 6, "identity"), "have width 6 and the explainer has width 8, but the identity adapter needs equal widths"),
        ((8, 6, "scale", [1]), "have width 6 and the explainer has width 8, but the scale adapter needs equal widths"),
        ((8, 6, "linear", []), r"linear adapter got the layers \[\]\. Give at least one"),
        ((8, 6, "linear", [1, 1]), r"got the layers \[1, 1\]\. .* each layer once"),
        ((8, 6, "low_rank", [1]), "low_rank adapter got rank 0, expected 1 or more"),
        ((8, 6, "mlp", [1], 0), "mlp adapter got rank 0, expected 1 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(SelfExplainError, match=message):
        ActivationAdapter(*arguments)


@pytest.mark.parametrize(
    ("target_shape", "explainer_shape"),
    [
        ((2, 200, 6), (2, 100, 8)),
        ((2, 0, 6), (2, 0, 8)),
        ((1, 20, 6), (2, 20, 8)),
        ((2, 20, 6), (3, 20, 8)),
        ((2, 20, 7), (2, 20, 8)),
        ((2, 20, 6), (2, 20, 6)),
        ((2, 8, 6), (2, 6, 8)),
    ],
)
def test_unpaired_activations_are_refused(target_shape, explainer_shape):
    message = re.escape(f"shapes {target_shape} and {explainer_shape}, expected (2, N, 6) and (2, N, 8)")
    with pytest.raises(SelfExplainError, match=message):
        ActivationAdapter(8, 6, "linear", LAYERS).fit(torch.ones(target_shape), torch.ones(explainer_shape))


# ---------------------------------------------------------------- recipes of docs/internals/adapters.md


def train_briefly(command, target_dir, directory):
    """Train for four steps with the settings of a documented command; returns the explainer and the recipe."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for layer in [1, 2] * 4:
        question = feature_description.question(layer)
        row = {
            "prompt": question.prompt,
            "completion": "the word dog",
            "placeholder_offsets": list(question.placeholder_offsets),
            "activations": [torch.randn(32, generator=generator).tolist()],
            "activation_layers": [layer],
        }
        rows.append(row)
    (directory / "datasets" / "feature_description").mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(directory / "datasets" / "feature_description" / "train.parquet")
    small = ["training.epochs=1", "training.batch_size=2", "training.lora.rank=4", "adapter.fit_tokens=200"]
    recipe = load_recipe("quickstart", [*command.split(), *small])
    base = load_target(str(target_dir))
    explainer = train(
        recipe.training, recipe.injection, recipe.adapter, base, None, directory / "datasets",
        ["feature_description"], directory / "explainer", 0, texts=TEXTS,
    )  # fmt: skip
    return explainer, recipe


TEXTS = ["The capital of France is Paris.", "Once there was a small dog near the river."] * 8


def test_the_documentation_has_a_command_for_each_kind_without_a_recipe():
    kinds = {load_recipe("quickstart", command.split()).adapter.kind for command in COMMANDS}
    assert kinds >= {"scale", "low_rank", "mlp"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "adapter.kind" in command])
def test_a_documented_adapter_trains_and_loads(command, target_dir, tmp_path):
    base = load_target(str(target_dir))
    explainer, recipe = train_briefly(command, target_dir, tmp_path)
    adapter = explainer.model.activation_adapter
    assert adapter.kind == recipe.adapter.kind and adapter.layers == [1, 2]
    fitted = ActivationAdapter(32, 32, recipe.adapter.kind, [1, 2], recipe.adapter.rank)
    fitted.reset(0)
    fitted.fit(*paired_activations(base, base, TEXTS, [1, 2], 200, recipe.adapter.fit_to), recipe.adapter.ridge)
    for name, start in fitted.state_dict().items():
        if name != "markers":
            trained = adapter.state_dict()[name]
            assert trained.shape == start.shape and not torch.equal(trained, start), name
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "explainer")
    v, layers = torch.randn(3, 32), torch.tensor([1, 2, 1])
    torch.testing.assert_close(loaded.model.activation_adapter(v, layers), adapter(v, layers))


def test_lora_weights_are_saved_in_the_documented_precision(target_dir, tmp_path):
    (command,) = (command for command in COMMANDS if "save_dtype" in command)
    train_briefly(command, target_dir, tmp_path)
    weights = load_file(tmp_path / "explainer" / "lora" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_an_unknown_precision_on_disk_is_refused():
    with pytest.raises(SelfExplainError, match=r"save_dtype"):
        load_recipe("quickstart", ["training.save_dtype=float8"])

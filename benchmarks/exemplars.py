"""Cost of collecting exemplars, compared with the forward passes and encoding alone, and with keeping every activation.

    python benchmarks/exemplars.py [--texts 1500] [--features 1024] [--k 16]

Three methods process the texts of the embedded world with the same SAEs of three layers. They are interleaved and
repeated in one process, for a model of ordinary shape and for the embedded target, whose forward passes are so cheap
that every overhead shows:

- floor: the forward passes and the encoding, with the result discarded;
- ours: `features.exemplars.collect`;
- all firings: the method of delphi (github.com/EleutherAI/delphi, `InMemoryCache`), reimplemented here. It keeps every
  nonzero activation as three 64-bit numbers and a value until the end, then concatenates and sorts them by feature.

Writes the smallest times, their ratios, and the bytes that each method keeps to benchmarks/results/exemplars.json.
"""

import argparse
import json
import platform
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from selfexplain.features.dictionary import Dictionary, load_dictionaries
from selfexplain.features.exemplars import ExemplarState, collect
from selfexplain.features.residuals import token_batches
from selfexplain.features.saes import train_saes
from selfexplain.groundtruth.builders.dictionaries import corpus_token_ids
from selfexplain.groundtruth.sources import read_corpus
from selfexplain.target.capture import capture
from selfexplain.target.load import Target, load_target

RESULTS = Path(__file__).parent / "results" / "exemplars.json"


def encoded(target: Target, dictionaries: list[Dictionary], token_ids: list[list[int]]):
    """Forward passes and encoding only: one result per batch and dictionary."""
    layers = [dictionary.layer for dictionary in dictionaries]
    for sequences, input_ids, mask in token_batches(target, token_ids, "floor"):
        hidden = capture(target.model, input_ids, layers, mask).float()
        for number, dictionary in enumerate(dictionaries):
            yield number, sequences, mask, dictionary.encode(hidden[number][mask])


@torch.no_grad()
def floor(target: Target, dictionaries: list[Dictionary], token_ids: list[list[int]]) -> None:
    for _ in encoded(target, dictionaries, token_ids):
        pass


@torch.no_grad()
def all_firings(target: Target, dictionaries: list[Dictionary], token_ids: list[list[int]]) -> int:
    """Run delphi's method and return the bytes that it keeps at the end, without the copy made by concatenation."""
    locations: list[list[torch.Tensor]] = [[] for _ in dictionaries]
    values: list[list[torch.Tensor]] = [[] for _ in dictionaries]
    for number, sequences, mask, activations in encoded(target, dictionaries, token_ids):
        rows, positions = mask.nonzero(as_tuple=True)
        tokens, features = activations.nonzero(as_tuple=True)
        indices = sequences.to(mask.device)[rows[tokens]], positions[tokens], features
        locations[number].append(torch.stack(indices, dim=1).cpu())
        values[number].append(activations[tokens, features].cpu())
    kept = 0
    for location, value in zip(locations, values, strict=True):
        joined, strengths = torch.cat(location), torch.cat(value)
        kept += joined.nbytes + strengths.nbytes
        order = joined[:, 2].argsort(stable=True)  # by feature, as cutting windows requires
        joined[order], strengths[order]
    return kept


def ours(target: Target, dictionaries: list[Dictionary], token_ids: list[list[int]]) -> ExemplarState:
    return collect(target, dictionaries, token_ids, n_top=10, n_sampled=20)


def timed(method, *arguments) -> tuple[float, object]:
    """Seconds and result of a method: process time on a CPU, whose cores others may use, and wall time on a GPU."""
    on_cpu = arguments[0].model.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    begin = clock()
    result = method(*arguments)
    if not on_cpu:
        torch.cuda.synchronize()
    return clock() - begin, result


def larger(target: Target) -> Target:
    """A random Llama of 12 blocks of width 256 that reads the same tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=len(target.tokenizer), **size)
    return Target(LlamaForCausalLM(config).eval(), target.tokenizer, "random Llama, 12 blocks of width 256")


def measure(target: Target, token_ids: list[list[int]], options: argparse.Namespace) -> dict:
    layers = [target.n_layers // 4, target.n_layers // 2, 3 * target.n_layers // 4]
    with tempfile.TemporaryDirectory() as directory:
        settings = {"n_features": options.features, "k": options.k, "n_tokens": 5_000, "learning_rate": 5e-3}
        train_saes(target, token_ids, layers, Path(directory), **settings, seed=0)
        dictionaries = load_dictionaries(directory, target, layers, centers=dict)
    seconds: dict[str, list[float]] = {"floor": [], "ours": [], "all_firings": []}
    for _ in range(options.repeats):
        seconds["floor"].append(timed(floor, target, dictionaries, token_ids)[0])
        taken, state = timed(ours, target, dictionaries, token_ids)
        seconds["ours"].append(taken)
        taken, kept = timed(all_firings, target, dictionaries, token_ids)
        seconds["all_firings"].append(taken)
    best = {name: min(values) for name, values in seconds.items()}
    state_bytes = sum(tensor.nbytes for tensor in state.tensors().values())
    return {
        "target": target.name,
        "texts": len(token_ids),
        "tokens": sum(map(len, token_ids)),
        "layers": layers,
        "features_of_each": options.features,
        "k": options.k,
        "firings": int(state.counts.sum()),
        "seconds": best,
        "ours_over_floor": best["ours"] / best["floor"],
        "all_firings_over_floor": best["all_firings"] / best["floor"],
        "ours_bytes": state_bytes,
        "ours_bytes_per_feature": state_bytes / (options.features * len(layers)),
        "all_firings_bytes": kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    embedded = load_target("selfexplain/tiny")
    texts = read_corpus("selfexplain/tiny-world", seed=0).texts[: options.texts]
    runs = []
    for target in (larger(embedded), embedded):
        target.model.to("cuda" if on_gpu else "cpu")
        runs.append(measure(target, corpus_token_ids(target, texts, 256), options))
    result = {
        "runs": runs,
        "machine": {
            "processor": platform.machine(),
            "device": torch.cuda.get_device_name() if on_gpu else "CPU, one thread",
            "clock": "wall" if on_gpu else "time of the process",
        },
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "sae-lens", "numpy")},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

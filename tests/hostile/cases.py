"""Hostile repositories: each case changes a copy of good files in one way.

The good files are an explainer (`saved`), its base (`base`), a merged explainer (`full`) and a third-party adapter
(`adapter`). A case names which of them is loaded.
"""

import copy
import json
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPLAINER, TARGET, ADAPTER, MERGED = "saved", "base", "adapter", "full"
JSON_FILES = {
    EXPLAINER: (
        "config.json",
        "lora/adapter_config.json",
        "injection_check.json",
        "processor_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
    ),
    TARGET: ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"),
    ADAPTER: ("adapter_config.json", "ao_config.json", "tokenizer_config.json"),
    MERGED: ("config.json", "merged/config.json"),
}
TENSOR_FILES = {
    EXPLAINER: ("activation_adapter.safetensors", "lora/adapter_model.safetensors", "injection_check.safetensors"),
    TARGET: ("model.safetensors",),
    ADAPTER: ("adapter_model.safetensors",),
    MERGED: ("merged/model.safetensors",),
}
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    7,
    10**6,
    10**9,
    10**18,
    -(2**63),
    0.5,
    1e308,
    float("nan"),
    "",
    "x",
    "../../x",
    "\ud800",
    "{{",
    "a" * 10_000,
    [],
    {},
    [[]],
    {"": None},
    [None] * 100,
    {"a": {"b": [1, 2]}},
)


@dataclass(frozen=True)
class Case:
    """One hostile repository.

    Attributes:
        kind: group in the report.
        name: what was changed.
        load: which of the good directories is loaded.
        change: function of the directory of all copies and of the path of the canary.
        may_change_base: whether the files of the base itself are changed, so that its logits may differ.
    """

    kind: str
    name: str
    load: str
    change: Callable[[Path, Path], object]
    may_change_base: bool = False


class Payload:
    """An object whose pickle writes a file when it is opened."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return (Path.write_text, (self.canary, "code was executed"))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def update(where: str, load: str, file: str, **fields: Any) -> Case:
    """A case that sets fields of a JSON file."""
    text = ", ".join(f"{key}={str(value)[:40]}" for key, value in fields.items())
    return Case(
        where,
        f"{load}/{file}: {text}",
        load,
        lambda root, canary: edit(root / load / file, lambda content: content.update(fields)),
        may_change_base=load != EXPLAINER,
    )


# ---------------------------------------------------------------- code


def code() -> Iterator[Case]:
    """Python files and references to them, in every place that transformers looks at."""
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoTokenizer")
    references = {
        "plain": "evil.Evil",
        "of a repository": "someone/evil--evil.Evil",
        "list": ["evil.Evil", "evil.Evil"],
    }
    files = {
        EXPLAINER: ("config.json", "processor_config.json", "tokenizer_config.json"),
        TARGET: ("config.json", "tokenizer_config.json"),
        ADAPTER: ("tokenizer_config.json",),
        MERGED: ("merged/config.json",),
    }
    for load, names in files.items():
        for file in names:
            for what, reference in references.items():
                for kind in (None, "evil"):
                    yield Case(
                        "code",
                        f"{load}/{file}: auto_map, {what}, model_type {kind}",
                        load,
                        _map_code(load, file, classes, reference, kind),
                    )
    for file in (
        "custom_generate/generate.py",
        "modeling_selfexplainer.py",
        "sitecustomize.py",
        "__init__.py",
        "setup.py",
        "tokenization_llama.py",
        "evil.pth",
    ):
        for load in (EXPLAINER, TARGET):
            yield Case("code", f"{load}/{file}", load, _write_code(load, file))
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        for load, file in ((EXPLAINER, "config.json"), (TARGET, "config.json"), (MERGED, "merged/config.json")):
            yield update("code", load, file, **{key: "someone/kernel"})
            yield update("code", load, file, **{key: "flash_attention_2"})


def _map_code(load: str, file: str, classes: tuple[str, ...], reference: Any, kind: str | None) -> Callable:
    def change(root: Path, canary: Path) -> None:
        _write_code(load, str(Path(file).parent / "evil.py"))(root, canary)
        fields: dict[str, Any] = {"auto_map": dict.fromkeys(classes, reference)}
        if kind is not None:
            fields |= {"model_type": kind, "tokenizer_class": "Evil", "processor_class": "Evil"}
        edit(root / load / file, lambda content: content.update(fields))

    return change


def _write_code(load: str, file: str) -> Callable:
    def change(root: Path, canary: Path) -> None:
        path = root / load / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(canary)!r}, 'w').write('code')\nclass Evil:\n    pass\n")

    return change


# ---------------------------------------------------------------- pickles


def pickles() -> Iterator[Case]:
    """Pickles instead of safetensors files, next to them, under their names, and behind an index."""
    for load, files in TENSOR_FILES.items():
        for file in files:
            yield Case("pickles", f"{load}/{file} is a pickle", load, _pickle(load, file, file))
            for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt"):
                target = str(Path(file).with_name(name))
                yield Case("pickles", f"{load}/{target} instead of {file}", load, _pickle(load, target, file))
    for load, folder in ((TARGET, "."), (MERGED, "merged")):
        for shard in ("w.bin", "w.pt", "../w.bin", "/w.safetensors", "../../w.safetensors", "w.safetensors/../w.bin"):
            yield Case("pickles", f"{load}: the index names {shard}", load, _index(load, folder, shard), True)


def _pickle(load: str, file: str, instead_of: str) -> Callable:
    def change(root: Path, canary: Path) -> None:
        (root / load / instead_of).unlink()
        (root / load / file).write_bytes(pickle.dumps({"weight": Payload(canary)}))

    return change


def _index(load: str, folder: str, shard: str) -> Callable:
    def change(root: Path, canary: Path) -> None:
        directory = root / load / folder
        (directory / "model.safetensors").unlink()
        (directory / "w.bin").write_bytes(pickle.dumps(Payload(canary)))
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": shard}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


# ---------------------------------------------------------------- LoRA settings


def lora_settings() -> Iterator[Case]:
    """Settings of peft that change the base, cost memory or hang."""
    values: dict[str, tuple[Any, ...]] = {
        "init_lora_weights": (
            "pissa",
            "pissa_niter_16",
            "PiSSA",
            "olora",
            "OLORA",
            "corda",
            "loftq",
            "lora_ga",
            "mica",
            "eva",
            "orthogonal",
            "gaussian",
            False,
            5,
            "nonsense",
        ),
        "layer_replication": ([[0, 4], [2, 4]], [[0, 10**6]]),
        "bias": ("all", "lora_only", "nonsense", 5),
        "modules_to_save": (["lm_head"], ["embed_tokens", "norm"], "lm_head", ["(a+)+"]),
        "r": (10**9, 100_000, 60_000, 0, -4, "4", None, 3),
        "rank_pattern": ({"q_proj": 10**8}, {"(a+)+": 4}, {r"(\w|\w|[a-z])+(\w|\.)+\d{9}": 4}, 5),
        "alpha_pattern": ({"q_proj": 1e308}, {"(" * 50: 1}, {r"(\w|\w|[a-z])+(\w|\.)+\d{9}": 4.0}),
        "target_modules": (
            "all-linear",
            "(" * 10,
            r"(\w|\w|[a-z])+(\w|\.)+\d{9}",
            r"((.*)*)*x",
            ["lm_head"],
            [],
            5,
            ["embed_tokens"],
            ["x"] * 100_000,
            [""],
        ),
        "exclude_modules": (r"(\w|\w|[a-z])+(\w|\.)+\d{9}", ["q_proj"]),
        "layers_pattern": ("(a+)+", ["layers"]),
        "layers_to_transform": ([0], 10**9, [10**9], "x"),
        "trainable_token_indices": ([0, 1], [10**9], [-1], {"embed_tokens": [5]}, {"(a+)+": [1]}),
        "target_parameters": (["mlp.up_proj.weight"], ["(a+)+"]),
        "use_dora": (True, "x"),
        "use_rslora": (True,),
        "lora_bias": (True,),
        "use_qalora": (True,),
        "ensure_weight_tying": (True,),
        "arrow_config": ({"top_k": 2},),
        "kasa_config": ({"beta": 1.0},),
        "megatron_config": ({"x": 1},),
        "megatron_core": ("os", "evil"),
        "auto_mapping": ({"parent_library": "evil"},),
        "peft_type": ("IA3", "PROMPT_TUNING", None, 5),
        "task_type": ("SEQ_CLS", "nonsense"),
        "lora_alpha": (float("nan"), float("inf"), "x"),
        "lora_dropout": (2.0, -1, "x"),
        "base_model_name_or_path": ("someone/else", 5),
    }
    for key, options in values.items():
        for value in options:
            yield update("LoRA settings", EXPLAINER, "lora/adapter_config.json", **{key: value})
            if not isinstance(value, int | float) or isinstance(value, bool):
                yield update("LoRA settings", ADAPTER, "adapter_config.json", **{key: value})


# ---------------------------------------------------------------- numbers


def numbers() -> Iterator[Case]:
    """Numbers in small files that ask for a large model."""
    fields = {
        "num_hidden_layers": (10**4, 10**6, 10**9, 0, -1, 4.5, "4"),
        "vocab_size": (10**9, 10**12, 0, -5),
        "hidden_size": (10**6, 10**9, 0, 33),
        "intermediate_size": (10**9, 0),
        "num_attention_heads": (10**9, 0, 3),
        "num_key_value_heads": (10**9, 0),
        "max_position_embeddings": (10**12, 0, -1),
        "num_labels": (10**9, 10**7),
        "head_dim": (10**9, -1),
        "chunk_size_feed_forward": (10**9,),
        "num_local_experts": (10**9,),
        "rope_parameters": ({"rope_type": "yarn", "factor": 1e308}, {"rope_type": "nonsense"}, 5),
        "layer_types": (["full_attention"] * 10**5, "x"),
        "pad_token_id": (10**9, -5),
        "eos_token_id": ([10**9], "x"),
        "dtype": ("load", "nonsense", 5),
        "quantization_config": ({"quant_method": "nonsense"}, {}, 5, {"quant_method": "bitsandbytes"}),
        "tie_word_embeddings": ("x",),
        "hidden_act": ("nonsense", 5),
        "id2label": ({"x": 1}, 5),
        "torch_dtype": ([],),
        "per_layer_config": ({"0": {"hidden_size": 10**9}}, 5),
        "transformers_weights": ("../x.safetensors", "w.bin", 5),
    }
    for key, values in fields.items():
        for value in values:
            yield update("numbers", TARGET, "config.json", **{key: value})
            yield update("numbers", MERGED, "merged/config.json", **{key: value})
            yield Case(
                "numbers",
                f"saved/config.json: text_config.{key}={str(value)[:40]}",
                EXPLAINER,
                lambda root, canary, key=key, value=value: edit(
                    root / EXPLAINER / "config.json", lambda c: c["text_config"].update({key: value})
                ),
            )
    explainer = {
        "target": (
            {"model": "x", "revision": None, "n_layers": 10**9, "d_model": 32},
            {"n_layers": 4},
            {},
            5,
            {"model": "x", "revision": None, "n_layers": 4, "d_model": 10**9},
        ),
        "adapter": (
            {"kind": "linear", "d_target": 32, "layers": list(range(9000))},
            {"kind": "evil", "d_target": 32},
            {"kind": "mlp", "d_target": 32, "layers": [0], "rank": 10**9},
            {"kind": "low_rank", "d_target": 32},
            {"kind": "identity", "d_target": 10**9},
            {"d_target": 32, "nonsense": 1},
            5,
            [],
        ),
        "injection": (
            {"site": "block_output", "block": 10**9},
            {"scale": float("nan")},
            {"neighbour_ids": [1]},
            5,
            {"placeholder": ""},
            {"placeholder_id": 10**9},
            {"template": "{" * 100},
            {"layers": [[10**9]]},
        ),
        "lora": ({}, {"rank": 10**9}, 5, {"dtype": "load"}),
        "num_labels": (10**9,),
        "tasks": (5, [5], ["x"] * 10**5),
        "trained_layers": ({"x": [10**12]}, 5),
        "calibration": ({"x": {"temperature": float("nan")}}, 5),
        "classes": (5, {"x": 5}),
        "abstain_below": ("x", float("nan")),
        "merged": (True, "x"),
        "text_config": ({}, 5, {"model_type": "selfexplainer"}, {"model_type": "nonsense"}, {"model_type": 5}),
    }
    for key, values in explainer.items():
        for value in values:
            yield update("numbers", EXPLAINER, "config.json", **{key: value})


# ---------------------------------------------------------------- templates and tokenizers


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "loop": LOOP,
    "memory": "{{ 'a' * 100000000000 }}",
    "output": "{% for i in range(99999) %}{{ 'text' * 9999 }}{% endfor %}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% for",
    "error": "{{ raise_exception('no') }}",
    "undefined": "{{ a.b.c }}",
    "type": "{{ 1 + 'a' }}",
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "import": "{% import 'os' as os %}",
    "power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "padding": "{{ '%01000000000d' % 1 }}",
    "empty": "",
    "twice": "{{ messages[0].content }}{{ messages[0].content }}",
    "upper": "{{ messages[0].content|upper }}",
}


def templates() -> Iterator[Case]:
    """Chat templates that do not end, fill the memory, fail or reach for Python objects."""
    for name, template in TEMPLATES.items():
        for load in (EXPLAINER, TARGET):
            yield Case("templates", f"{load}: {name}", load, _template(load, template), load == TARGET)
    yield update("templates", EXPLAINER, "tokenizer_config.json", chat_template=[{"name": "default", "template": LOOP}])
    for value in (5, [5], {"default": LOOP}, [{"name": "default"}]):
        yield update("templates", EXPLAINER, "tokenizer_config.json", chat_template=value)


def _template(load: str, template: str) -> Callable:
    def change(root: Path, canary: Path) -> None:
        (root / load / "chat_template.jinja").write_text(template.replace("CANARY", str(canary)))

    return change


def tokenizers() -> Iterator[Case]:
    """Tokenizers that lengthen every text, hang or do not fit the model."""
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    slow = {"type": "Replace", "pattern": {"Regex": "(?:.|a|[a-z])*(?:.|a)*$^"}, "content": "x"}
    changes: dict[str, dict[str, Any]] = {
        "doubling": {"normalizer": {"type": "Sequence", "normalizers": [double] * 40}},
        "slow expression": {"normalizer": slow},
        "many steps": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 10**5}},
        "nested steps": {
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [double] * 20}] * 3}
        },
        "prepend": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**7}},
        "decoder": {"decoder": {"type": "Sequence", "decoders": [double] * 40}},
        "post-processor": {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 10**5,
                "pair": [],
                "special_tokens": {},
            }
        },
        "unknown": {"pre_tokenizer": {"type": "Nonsense"}},
        "no model": {"model": None},
        "empty model": {"model": {}},
        "no vocabulary": {"model": {"type": "BPE", "vocab": {}, "merges": []}},
        "large ids": {"model": {"type": "WordLevel", "vocab": {"a": 2**32 - 1, "[UNK]": 0}, "unk_token": "[UNK]"}},
        "added tokens": {"added_tokens": [{"id": 10**9, "content": "x", "special": True}]},
        "version": {"version": "9.0"},
        "truncation": {"truncation": {"max_length": 0}},
    }
    for name, fields in changes.items():
        for load in (EXPLAINER, TARGET):
            case = update("tokenizers", load, "tokenizer.json", **fields)
            yield Case("tokenizers", f"{load}: {name}", load, case.change, load == TARGET)
    for key, value in {
        "tokenizer_class": "os.system",
        "model_max_length": -1,
        "padding_side": "nonsense",
        "extra_special_tokens": {"x": 5},
        "bos_token": {"content": 5},
        "eos_token": 5,
        "added_tokens_decoder": {"x": {}},
        "backend": "nonsense",
    }.items():
        for load in (EXPLAINER, TARGET):
            yield update("tokenizers", load, "tokenizer_config.json", **{key: value})


# ---------------------------------------------------------------- golden questions


def golden() -> Iterator[Case]:
    """Golden questions that are too many, too long or inconsistent."""
    changes: dict[str, Callable[[dict], object]] = {
        "300 times the rows": lambda c: c.update(rows=c["rows"] * 300, input_ids=c["input_ids"] * 300),
        "a long prompt": lambda c: c["rows"][0].update(prompt="a" * 10**7),
        "a prompt of 200,000 characters": lambda c: c["rows"][0].update(prompt="a " * 10**5),
        "more placeholders": lambda c: c["rows"][0].update(placeholder_offsets=[0, 1, 2]),
        "no placeholders": lambda c: c["rows"][0].update(placeholder_offsets=[]),
        "offsets as text": lambda c: c["rows"][0].update(placeholder_offsets="x"),
        "a negative offset": lambda c: c["rows"][0].update(placeholder_offsets=[-1]),
        "no prompt": lambda c: c["rows"][0].pop("prompt"),
        "a prompt as number": lambda c: c["rows"][0].update(prompt=5),
        "a surrogate": lambda c: c["rows"][0].update(prompt="\ud800"),
        "unknown layers": lambda c: c["rows"][0].update(activation_layers=[10**9]),
        "layers as text": lambda c: c["rows"][0].update(activation_layers=["x"]),
        "spans": lambda c: c["rows"][0].update(template_spans=[[0]]),
        "rows as mapping": lambda c: c.update(rows={"a": 1}),
        "no rows": lambda c: c.update(rows=[], input_ids=[]),
        "token ids as text": lambda c: c.update(input_ids=["x"] * 4),
        "a precision": lambda c: c.update(precision="float64"),
        "a precision as list": lambda c: c.update(precision=[]),
        "nothing": lambda c: c.clear(),
    }
    for name, change in changes.items():
        yield Case(
            "golden questions",
            name,
            EXPLAINER,
            lambda root, canary, change=change: edit(root / EXPLAINER / "injection_check.json", change),
        )
    for name, value in {"answers beyond the vocabulary": 10**9, "negative answers": -1}.items():
        yield Case("golden questions", name, EXPLAINER, _tensors("injection_check.safetensors", "answers", value))
    for name, value in {"NaN": float("nan"), "infinity": float("inf")}.items():
        for key in ("log_probs", "vectors"):
            yield Case(
                "golden questions", f"{name} in {key}", EXPLAINER, _tensors("injection_check.safetensors", key, value)
            )


def _tensors(file: str, key: str, value: float) -> Callable:
    def change(root: Path, canary: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(root / EXPLAINER / file)
        tensors[key].fill_(value)
        save_file(tensors, root / EXPLAINER / file)

    return change


# ---------------------------------------------------------------- damaged files and paths


def damaged() -> Iterator[Case]:
    """Every file cut short, empty, replaced, missing, a directory, or a link to a file outside."""
    for load in (EXPLAINER, TARGET, ADAPTER, MERGED):
        for file in (*JSON_FILES[load], *TENSOR_FILES[load]):
            for name, change in DAMAGE.items():
                yield Case(
                    "damaged files",
                    f"{load}/{file}: {name}",
                    load,
                    lambda root, canary, load=load, file=file, change=change: change(root / load / file),
                    may_change_base=True,
                )


def _replace(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    generator = random.Random(path.name)
    for _ in range(20):
        content[generator.randrange(min(len(content), 4096))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": _replace(b""),
    "missing": Path.unlink,
    "a list": _replace(b"[1, 2, 3]"),
    "deeply nested": _replace(b'{"a":' * 50_000),
    "not text": _replace(bytes(range(256)) * 8),
    "a huge header": _replace(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"),
    "a directory": _to_directory,
    "a link": _to_link,
    "flipped bits": _flip,
}


def paths() -> Iterator[Case]:
    """Names of bases and revisions that point elsewhere."""
    names = (
        "/etc/passwd",
        "/etc",
        "../../x",
        "~/x",
        "file:///etc",
        "http://localhost:9/x",
        "",
        ".",
        "a/b/c",
        "\x00",
        "selfexplain/tiny",
        "selfexplain/tiny-selfexplainer",
        "someone/private",
        "a" * 5000,
        "hf://x/y",
    )
    for name in names:
        yield update("paths", EXPLAINER, "config.json", base_model_name_or_path=name)
        yield update("paths", ADAPTER, "adapter_config.json", base_model_name_or_path=name)
    for revision in ("../../x", "/etc", 5, "a" * 5000, ""):
        yield update("paths", EXPLAINER, "config.json", base_model_revision=revision)
        yield update("paths", ADAPTER, "adapter_config.json", revision=revision)
    yield Case(
        "paths",
        "the explainer is its own base",
        EXPLAINER,
        lambda root, canary: edit(
            root / EXPLAINER / "config.json", lambda c: c.update(base_model_name_or_path=str(root / EXPLAINER))
        ),
    )
    yield Case(
        "paths",
        "the base is an adapter",
        EXPLAINER,
        lambda root, canary: edit(
            root / EXPLAINER / "config.json", lambda c: c.update(base_model_name_or_path=str(root / ADAPTER))
        ),
    )


def third_party() -> Iterator[Case]:
    """Sidecar files of third-party explainers."""
    values: dict[str, tuple[Any, ...]] = {
        "hook_onto_layer": (10**9, -1, "x", None, 1.5),
        "steering_coefficient": ("x", float("nan"), 10**400),
        "special_token": (5, "", "two words", None),
        "prefix_template": (5, "{layer", "{a.b}", "{special_token}" * 99),
        "act_layer_combinations": (5, [[10**9]], [["x"]], [5]),
        "created_at_utc": (5, "x", []),
    }
    for key, options in values.items():
        for value in options:
            yield update("third-party files", ADAPTER, "ao_config.json", **{key: value})
    for text in ("a: &a [x]\nb: [*a, *a]\n", "[" * 10**4, "!!python/object/apply:os.system ['x']", "role: av\n", "5"):
        yield Case(
            "third-party files",
            f"nla_meta.yaml: {text[:30]!r}",
            ADAPTER,
            lambda root, canary, text=text: (root / ADAPTER / "nla_meta.yaml").write_text(text),
        )


# ---------------------------------------------------------------- random values


def random_values(n: int, seed: int = 0) -> Iterator[Case]:
    """JSON files in which random values are replaced by junk.

    Args:
        n: number of cases.
        seed: seed of the choice of file, place and value.
    """
    generator = random.Random(seed)
    for index in range(n):
        load = generator.choice((EXPLAINER, EXPLAINER, TARGET, ADAPTER, MERGED))
        file = generator.choice(JSON_FILES[load])
        case_seed = generator.random()
        yield Case(
            "random values",
            f"{index}: {load}/{file}",
            load,
            lambda root, canary, load=load, file=file, case_seed=case_seed: _junk(root / load / file, case_seed),
            may_change_base=True,
        )


def _junk(path: Path, seed: float) -> None:
    generator = random.Random(seed)
    content = json.loads(path.read_text())
    for _ in range(generator.choice((1, 1, 1, 3))):
        node, key = content, None
        while isinstance(node, dict | list) and node and (key is None or generator.random() < 0.7):
            parent = node
            key = generator.choice(sorted(node)) if isinstance(node, dict) else generator.randrange(len(node))
            node = node[key]
        if key is not None:
            parent[key] = copy.deepcopy(generator.choice(JUNK))
    path.write_text(json.dumps(content))


def all_cases(n_random: int = 150) -> list[Case]:
    """All cases, with `n_random` random ones."""
    groups = (code, pickles, lora_settings, numbers, templates, tokenizers, golden, damaged, paths, third_party)
    return [case for group in groups for case in group()] + list(random_values(n_random))

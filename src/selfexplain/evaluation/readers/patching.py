"""Readers of activation patching: what can be predicted from numbers, and from the vector without an explainer?"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from selfexplain.evaluation.readers.boosting import Boosting, Table, fit_boosting
from selfexplain.evaluation.readers.reader import Fitted, Material, NotAvailable, Row, best_on_validation, reader
from selfexplain.evaluation.readers.token_lens import RIDGES, TokenLens, first_vectors, fit_maps
from selfexplain.target.lens import logit_lens
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import next_token_logits
from selfexplain.target.resume import batches, clean_run
from selfexplain.target.tokens import encode_text, token_text
from selfexplain.tasks import activation_patching
from selfexplain.tasks.outcome import Outcome, render

TASK = activation_patching.TASK

OPTIONS = re.compile(r"Respond with one of (.+?) (?:or unknown )?and nothing else")
"""The answer options in a prompt of the paper's form."""

PROMPTS_AT_ONCE = 1024


@reader(TASK)
def gradient_boosting(material: Material) -> Fitted:
    """Whether the output changes, from token type, block, position, norm, cosine and the margin of the clean answer."""
    boosting = material.share(_fit)
    return Fitted(lambda rows: boosting.predict(_table(material.target, rows)), boosting.settings)


@reader(TASK)
def logit_lens_options(material: Material) -> Fitted:
    """Where gradient boosting predicts a change, the option that the logit lens of the vector ranks first."""
    boosting = material.share(_fit)
    if not any(_options(row["target_prompt"]) for row in material.train):
        raise NotAvailable("the prompts list no answer options")
    return Fitted(partial(_with_lens, material, boosting, True), boosting.settings)


@reader(TASK)
def logit_lens_vocabulary(material: Material) -> Fitted:
    """Where gradient boosting predicts a change, the token that the logit lens of the vector ranks first."""
    boosting = material.share(_fit)
    return Fitted(partial(_with_lens, material, boosting, False), boosting.settings)


@reader(TASK)
def substitution(material: Material) -> Fitted:
    """Read the token of the vector with the token lens, put it into the text, and run the target normally."""
    material.require("prompt_ids", "position", "source_prompt", "source_position", "layers", "clean_output_id")
    lens = material.share(_fit_lens)
    return Fitted(partial(_substitute, material.target, lens), {"ridge": lens.ridge})


def _fit(material: Material) -> Boosting:
    material.require("token_type", "layers", "position", "prompt_ids", "target_prompt", "clean_output")
    train, validation = list(material.train), list(material.validation)
    labels, validation_labels = ([row["changed"] for row in rows] for rows in (train, validation))
    tables = (_table(material.target, rows) for rows in (train, validation))
    return fit_boosting(next(tables), labels, next(tables), validation_labels, material.seed)


def _table(target: Target, rows: Sequence[Row]) -> Table:
    clean = _clean_values(target, rows)
    return {
        "token_type": [row["token_type"] for row in rows],
        "block": [row["layers"][0] for row in rows],
        "position": [row["position"] for row in rows],
        "position_from_end": [len(row["prompt_ids"]) - row["position"] for row in rows],
        "norm": [float(np.linalg.norm(np.asarray(row["activations"][0], np.float32))) for row in rows],
        "cosine": clean[:, 0].tolist(),
        "margin": clean[:, 1].tolist(),
    }


@torch.no_grad()
def _clean_values(target: Target, rows: Sequence[Row]) -> np.ndarray:
    """Two numbers per row from the clean run of its prompt, `(n_rows, 2)`.

    The cosine of the vector with the clean activation at the patched token (the mean over the patched layers), and the
    log-probability of the clean answer minus that of the runner-up.
    """
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        of_prompt.setdefault(tuple(row["prompt_ids"]), []).append(index)
    prompts = [list(ids) for ids in of_prompt]
    layers = sorted({layer for row in rows for layer in row["layers"]})
    values = np.zeros((len(rows), 2))
    for part in batches([(0, len(ids)) for ids in prompts], target.model.device):
        run = clean_run(target.model, [prompts[i] for i in part], layers, cached=False)
        top = run.logits.log_softmax(-1).topk(2).values
        for n, i in enumerate(part):
            for index in of_prompt[tuple(prompts[i])]:
                row = rows[index]
                clean = torch.stack([run.hidden[layer][n, row["position"]].float() for layer in row["layers"]]).mean(0)
                vector = torch.as_tensor(np.asarray(row["activations"][0], np.float32), device=clean.device)
                values[index, 0] = torch.cosine_similarity(vector, clean, dim=0).item()
                values[index, 1] = (top[n, 0] - top[n, 1]).item()
    return values


def _options(text: str) -> list[str]:
    """The answer options that a prompt lists; empty if it lists none."""
    match = OPTIONS.search(text)
    return match[1].split(" or ") if match else []


def _with_lens(material: Material, boosting: Boosting, among_options: bool, rows: Sequence[Row]) -> list[str]:
    """Answers whose verdict is that of gradient boosting, and whose output is read with the logit lens."""
    target = material.target
    changed = boosting.predict(_table(target, rows))
    outputs: list[str] = []
    for logits in logit_lens(target, first_vectors(rows)):
        for of_row in logits:
            row = rows[len(outputs)]
            tokens = _option_tokens(target, row) if among_options else None
            outputs.append(token_text(target.tokenizer, _best_token(of_row, row["clean_output_id"], tokens)))
    return [
        render(Outcome(True, output) if is_changed else Outcome(False, row["clean_output"]))
        for output, row, is_changed in zip(outputs, rows, changed, strict=True)
    ]


def _best_token(logits: Tensor, clean: int, among: Sequence[int] | None) -> int:
    """The token with the highest logit other than the clean answer, among some tokens or all of them."""
    candidates = [token for token in among or () if token != clean]
    if candidates:
        return candidates[int(logits[candidates].argmax())]
    first, second = logits.topk(2).indices.tolist()
    return second if first == clean else first


def _option_tokens(target: Target, row: Row) -> list[int]:
    """The first token of each option of a prompt, as it follows the prompt."""
    from selfexplain.target.ablation import continuations

    options = _options(row["target_prompt"])
    return [ids[0] for ids in continuations(target, row["target_prompt"], options) if ids] if options else []


def _fit_lens(material: Material) -> TokenLens:
    """Fit one map per block on the training rows, from their vectors to the embeddings of the tokens they come from.

    The regularisation with which most tokens of the validation rows are read correctly is kept.
    """
    target, train = material.target, material.train
    blocks = sorted({row["layers"][0] for row in train})
    embeddings = target.model.get_input_embeddings().weight.detach().float().cpu()
    sources = torch.tensor(_source_tokens(target, train))
    pairs = []
    for block in blocks:
        own = [index for index, row in enumerate(train) if row["layers"][0] == block]
        pairs.append((first_vectors([train[index] for index in own]), embeddings[sources[own]]))
    validation = list(material.validation)
    truth = _source_tokens(target, validation)

    def score(lens: TokenLens) -> float:
        return float(np.mean(np.equal(_read_tokens(lens, validation), truth)))

    candidates = [TokenLens(target, blocks, fit_maps(pairs, ridge), ridge) for ridge in RIDGES]
    return best_on_validation(candidates, score) if validation else candidates[0]


def _read_tokens(lens: TokenLens, rows: Sequence[Row]) -> list[int]:
    """The token that is read from the vector of each row. The layer of a block is its first layer."""
    return lens.nearest(first_vectors(rows), [row["layers"][0] for row in rows], 1)[:, 0].tolist()


def _source_tokens(target: Target, rows: Sequence[Row]) -> list[int]:
    """The token of the source prompt that each row's vector comes from."""
    ids = dict.fromkeys(row["source_prompt"] for row in rows)
    encoded = {text: encode_text(target.tokenizer, text) for text in ids}
    return [encoded[row["source_prompt"]][row["source_position"]] for row in rows]


def _substitute(target: Target, lens: TokenLens, rows: Sequence[Row]) -> list[str]:
    """Answers of the target to the prompts in which the patched token is replaced by the one that the lens reads."""
    prompts = []
    for row, token in zip(rows, _read_tokens(lens, rows), strict=True):
        ids = list(row["prompt_ids"])
        ids[row["position"]] = token
        prompts.append(ids)
    outputs: list[int] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        outputs += next_token_logits(target, prompts[start : start + PROMPTS_AT_ONCE]).argmax(-1).tolist()
    return [
        render(Outcome(output != row["clean_output_id"], token_text(target.tokenizer, output)))
        for output, row in zip(outputs, rows, strict=True)
    ]

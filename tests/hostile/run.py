"""Load hostile repositories, each in a process with limits, and report what happened.

`make hostile` runs `python tests/hostile/run.py`. A repository may load or be refused with a `SelfExplainError`.
Everything else fails the run: code of the repository was executed (a canary file appears), a file outside was written,
another program was started, a connection was opened, an error of another type was raised, the time or the memory ran
out, or the logits of the target differ from those of the good files.

The processes are forks of one process that has imported everything, so a case takes a fraction of a second.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

from hostile.cases import ADAPTER, EXPLAINER, MERGED, TARGET, Case, all_cases

MEMORY_BYTES, WALL_SECONDS, TEMPLATE_SECONDS = 4 * 2**30, 60, 3
GOOD = ("loaded", "refused")
ACTIONS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "input", "builtins.input")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def build(root: Path) -> None:
    """Write the good files: a base, an explainer, a merged explainer and a third-party adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    from battery import tiny_model
    from explainers import trained
    from third_party_checkpoints import write_oracle_config

    base = tiny_model("llama")
    base.save_pretrained(root / TARGET)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(root / TARGET)
    explainer = trained(root / TARGET)
    explainer.save_pretrained(root / EXPLAINER)
    explainer.merge_and_save(root / MERGED)
    base.config._name_or_path = base.name_or_path = str(root / TARGET)
    torch.manual_seed(1)
    get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear")).save_pretrained(
        root / ADAPTER
    )
    tokenizer.save_pretrained(root / ADAPTER)
    write_oracle_config(root / ADAPTER, created_at_utc="2026-01-01T00:00:00")


def make_tokenizer():
    """A byte-level tokenizer with a chat template, in which " ?" is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["The capital of Spain is Madrid ? ? ? Layer: 1 What does it mean ? ?"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        chat_template="{{ bos_token }}{% for m in messages %}U:{{ m.content }}\n{% endfor %}A:",
    )  # fmt: skip


def copy(good: Path, root: Path) -> None:
    """Copy the good files, with their absolute paths replaced."""
    shutil.copytree(good, root, dirs_exist_ok=True)
    for file in (f"{EXPLAINER}/config.json", f"{EXPLAINER}/lora/adapter_config.json", f"{ADAPTER}/adapter_config.json"):
        (root / file).write_text((root / file).read_text().replace(str(good), str(root)))


def load(case: Case, root: Path):
    """Load the repository of a case, and return the model that counts as the target, or None."""
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.target.load import load_target

    path = str(root / case.load)
    if case.load == TARGET:
        return load_target(path).model
    if case.load == ADAPTER:
        return SelfExplainerForCausalLM.from_third_party(path)
    explainer = SelfExplainerForCausalLM.from_pretrained(path)
    return None if explainer.config.merged else explainer


def target_logits(model):
    """Logits of the target for fixed tokens, with LoRA weights switched off."""
    import torch

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    ids = torch.tensor([[1, 40, 50, 60, 70]])
    with torch.no_grad():
        if isinstance(model, SelfExplainerForCausalLM):
            if model.config.merged:
                return None
            with model.as_target() as base:
                return base(ids).logits
        return model(ids).logits


def watch(root: Path, events: list[str]) -> None:
    """Record what Python does outside of `root`: files written or deleted, programs started, connections opened."""
    inside = (str(root), os.devnull, "/dev/")

    def outside(path) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and not os.path.abspath(os.fsdecode(path)).startswith(inside)

    def hook(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & WRITES and outside(args[0]):
            events.append(f"wrote {args[0]}")
        elif event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"):
            if any(outside(arg) for arg in args[:2] if isinstance(arg, str | bytes)):
                events.append(f"{event} {args[:2]}")
        elif event == "subprocess.Popen" and not any("limited.py" in str(arg) for arg in args[1]):
            events.append(f"started {args[1]}")
        elif event in ACTIONS:
            events.append(f"{event} {args}"[:200])

    sys.addaudithook(hook)


def child(case: Case, root: Path, canary: Path, expected) -> dict[str, str]:
    """Load one repository under limits and describe the outcome."""
    import torch

    from selfexplain.errors import SelfExplainError

    events: list[str] = []
    os.chdir(root)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch(root, events)
    outcome, detail = "loaded", ""
    try:
        model = load(case, root)
        if model is not None and not case.may_change_base:
            logits = target_logits(model)
            if logits is not None and not torch.equal(logits, expected):
                outcome, detail = "falsified target", "the logits without LoRA weights differ"
    except SelfExplainError as error:
        outcome, detail = "refused", str(error)
    except MemoryError:
        outcome = "memory"
    except BaseException as error:
        outcome = f"raw {type(error).__name__}"
        detail = "".join(traceback.format_exception(error)[-3:])
    if events:
        outcome, detail = "acted outside", "; ".join(events)
    if canary.exists():
        outcome = "code executed"
    return {"outcome": outcome, "detail": detail[:2000]}


def run(case: Case, good: Path, scratch: Path, expected) -> dict[str, str]:
    """Run one case in a fork, and return its outcome."""
    root, canary, report = scratch / "case", scratch / "canary", scratch / "report.json"
    for path in (root, canary, report):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    copy(good, root)
    case.change(root, canary)
    pid = os.fork()
    if pid == 0:
        with open(scratch / "log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        report.write_text(json.dumps(child(case, root, canary, expected)))
        os._exit(0)
    deadline = time.monotonic() + WALL_SECONDS
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"outcome": "time", "detail": f"more than {WALL_SECONDS} seconds"}
        time.sleep(0.01)
    if not report.exists():
        return {"outcome": "crash", "detail": (scratch / "log").read_text()[-2000:]}
    return json.loads(report.read_text())


def fingerprint(directory: Path) -> dict[str, bytes]:
    """The content of all files below a directory."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def main() -> int:
    """Run the cases and print the numbers of outcomes by kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="number of cases to draw; all by default")
    parser.add_argument("--random", type=int, default=150, help="number of cases with random values")
    parser.add_argument("--only", default="", help="run only cases whose kind or name contains this text")
    parser.add_argument("--verbose", action="store_true", help="print every case with its message")
    args = parser.parse_args()

    import torch

    import selfexplain.modeling.third_party.load  # noqa: F401 - so that the forks need not import it
    from selfexplain.target import limited

    torch.set_num_threads(1)
    limited.CPU_SECONDS = TEMPLATE_SECONDS
    cases = [case for case in all_cases(args.random) if args.only in case.kind or args.only in case.name]
    if args.sample:
        cases = random.Random(0).sample(cases, min(args.sample, len(cases)))
    with tempfile.TemporaryDirectory() as folder:
        good, scratch, home = (Path(folder) / name for name in ("good", "scratch", "home"))
        for path in (scratch, home):
            path.mkdir()
        (home / "private").write_text("unchanged")
        os.environ |= {"HOME": str(home), "TMPDIR": str(scratch)}
        tempfile.tempdir = None
        build(good)
        expected = target_logits(load(Case("", "", TARGET, lambda root, canary: None), good))
        before, failures, counts = fingerprint(good) | fingerprint(home), [], Counter()
        for case in cases:
            result = run(case, good, scratch, expected)
            outcome = result["outcome"]
            counts[case.kind, outcome if outcome in GOOD else "failed"] += 1
            if outcome not in GOOD or args.verbose:
                print(f"{outcome}: {case.kind}: {case.name}\n    {result['detail']}", flush=True)
            if outcome not in GOOD:
                failures.append(f"{outcome}: {case.kind}: {case.name}")
        if fingerprint(good) | fingerprint(home) != before:
            failures.append("files outside of the repositories changed")
    print(f"\n{'kind':20}{'loaded':>8}{'refused':>9}{'failed':>8}")
    for kind in [*dict.fromkeys(case.kind for case in cases), "all"]:
        row = [sum(n for (k, o), n in counts.items() if kind in (k, "all") and o == outcome)
               for outcome in (*GOOD, "failed")]  # fmt: skip
        print(f"{kind:20}{row[0]:8}{row[1]:9}{row[2]:8}")
    print(f"{len(cases)} hostile repositories: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

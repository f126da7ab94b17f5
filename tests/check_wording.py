"""Check the wording of everything that people read: a short list of expressions that the project does not use.

Run by `make lint`. Prints every hit as `file:line: expression (use ...)` and exits with 1 if there is one.
"""

# ruff: noqa: E501

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".jinja", ".toml", ".html", ".js", ".css"}
IGNORED = {"tests/check_wording.py"}

EXPRESSIONS = {
    r"foret(?:ell|old)\w*": "predict",
    r"told apart|tells? apart": "distinguishable from, separates",
    r"the (?:whole )?road\b": "the pipeline",
    r"(?:made|run|built|written|scored|trained|evaluated|drawn) anew|\banew\b": "again, rebuilt",
    r"\b(?:held|hold|holds|kept|keep) apart\b": "split by group, disjoint",
    r"\bstands? (?:beside|in)\b|\blies beside\b|\blie beside\b": "is next to, is in",
    r"\bbeside (?:it|them|the|every|each|its|this|that|one)\b": "next to, together with",
    r"\blet go\b|\blet_go\b": "free, release",
    r"\bof (?:one's|its|his|their|your|our|my) own(?=\s*[.,;:)])": "own, custom",
    r"\bforeign\b(?! key)": "third-party",
    r"\bgold(?:en)? (?:answer|description|label)s?\b": "ground truth",
    r"\bby whom\b|\bwhoever you like\b|\bby whom you like\b": "any",
    r"\bthe more the longer\b": "and keeps growing",
    r"(?<!there )(?<!that )\bis no (?!longer\b|more\b|better\b|such\b)\w+": "is not a ...",
    r"\bit is told\b|\bis told\b|\bsaid so\b|\bsays so\b": "is reported, is logged",
    r"\b\d+ (?:rows|layers|tasks|tokens|features|SAEs|examples) a (?:row|step|layer|task|batch|feature|prompt|pair)\b": "per",
}  # fmt: skip
PATTERN = {re.compile(expression, re.IGNORECASE): use for expression, use in EXPRESSIONS.items()}


def files() -> list[Path]:
    """Every tracked text file that people read."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.splitlines() if name not in IGNORED]
    return [ROOT / name for name in names if Path(name).suffix in SUFFIXES and (ROOT / name).is_file()]


def hits(text: str) -> list[tuple[int, str, str]]:
    """Line number, expression and what to use instead, for every unwanted expression in a text."""
    return [
        (text.count("\n", 0, match.start()) + 1, match[0], use)
        for pattern, use in PATTERN.items()
        for match in pattern.finditer(text)
    ]


def main() -> int:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {expression!r} (use: {use})"
        for path in files()
        for line, expression, use in hits(path.read_text(encoding="utf-8"))
    ]
    print("\n".join(found) or "Wording: no unwanted expressions.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

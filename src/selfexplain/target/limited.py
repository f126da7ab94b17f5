"""Render chat templates and encode texts in a child process with limits on time and memory.

This file is run as a script and imports neither this package nor torch: `python -I limited.py < job.json`. A template
or a regular expression can run forever or fill the memory inside one call into C or Rust code, which no check in the
same process can stop. The script prints nothing and exits with 0 if the job stayed within the limits.
"""

import json
import sys
from typing import Any

CPU_SECONDS, MEMORY_BYTES, MAX_CHARACTERS, MAX_TOKENS = 10, 2 * 2**30, 1_000_000, 1_000_000
TOO_MUCH_OUTPUT = 3
"""Exit status if a template or a tokenizer produces more than the limits above."""


def render(template: str, variables: dict[str, Any], text: str) -> int:
    """Render a chat template for one user turn and return the number of characters."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag `{% generation %}` of transformers, which does not change the text."""

        tags = {"generation"}  # noqa: RUF012 - the declared type of jinja2

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda x, **options: json.dumps(x, ensure_ascii=False)
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda format: "01 January 2025"}
    messages = [{"role": "user", "content": text}]
    n_characters = 0
    for part in environment.from_string(template).generate(messages=messages, add_generation_prompt=True, **variables):
        n_characters += len(part)
        if n_characters > MAX_CHARACTERS:
            break
    return n_characters


def main() -> int:
    """Run the job on standard input."""
    job = json.load(sys.stdin)
    try:
        import resource
    except ImportError:  # Windows; the parent still limits the time
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for template in job["templates"]:
        for text in job["texts"]:
            try:
                if render(template, job["variables"], text) > MAX_CHARACTERS:
                    return TOO_MUCH_OUTPUT
            except MemoryError:
                return TOO_MUCH_OUTPUT
            except Exception:  # an invalid template, which is reported when it is used
                break
    if job["tokenizer"] is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(job["tokenizer"])
        if any(len(tokenizer.encode(text).ids) > MAX_TOKENS for text in job["texts"]):
            return TOO_MUCH_OUTPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())

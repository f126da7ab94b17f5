# /// script
# requires-python = ">=3.11"
# dependencies = ["selfexplain[gpu]"]
# ///
"""Run a whole recipe where nothing is installed but uv, and publish what comes out.

    uv run recipes/run_recipe.py quickstart
    uv run recipes/run_recipe.py tiny --org ORG training.epochs=3
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN --timeout 10h recipes/run_recipe.py RECIPE --org ORG

RECIPE is the name of a packaged recipe or a YAML file; KEY=VALUE change its settings. With --org the run is published
there; on a machine that forgets its disk, such as a job, nothing is left without it.
"""

import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--org", help="publish there when the run is finished")
    given = parser.parse_intermixed_args()

    directories = [value.removeprefix("output_dir=") for value in given.values if value.startswith("output_dir=")]
    run_dir = directories[-1] if directories else str(Path("runs", Path(given.recipe).stem))
    values = [value for value in given.values if not value.startswith("output_dir=")]
    selfexplain = [sys.executable, "-m", "selfexplain"]
    subprocess.run([*selfexplain, "run", given.recipe, *values, f"output_dir={run_dir}"], check=True)
    if given.org:
        subprocess.run([*selfexplain, "publish", run_dir, "--org", given.org], check=True)


if __name__ == "__main__":
    main()

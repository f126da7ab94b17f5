# /// script
# requires-python = ">=3.11"
# dependencies = ["selfexplain[gpu]"]
# ///
"""Run a recipe on a machine that has only uv installed, and publish the results.

    uv run recipes/run_recipe.py quickstart
    uv run recipes/run_recipe.py tiny --org ORG training.epochs=3
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN --timeout 10h recipes/run_recipe.py RECIPE --org ORG

RECIPE is the name of a packaged recipe or a YAML file; KEY=VALUE arguments change its settings. With --org, the run is
published to that organisation or user. On a machine whose disk is deleted, such as a job, the results are lost without
--org.
"""

import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--org", help="organisation or user to publish the finished run to")
    arguments = parser.parse_intermixed_args()

    directories = [value.removeprefix("output_dir=") for value in arguments.values if value.startswith("output_dir=")]
    run_dir = directories[-1] if directories else str(Path("runs", Path(arguments.recipe).stem))
    values = [value for value in arguments.values if not value.startswith("output_dir=")]
    selfexplain = [sys.executable, "-m", "selfexplain"]
    subprocess.run([*selfexplain, "run", arguments.recipe, *values, f"output_dir={run_dir}"], check=True)
    if arguments.org:
        subprocess.run([*selfexplain, "publish", run_dir, "--org", arguments.org], check=True)


if __name__ == "__main__":
    main()

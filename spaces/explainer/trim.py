"""Write `embedded/` from a run of recipes/tiny.yaml: its results and some held-out features. Usage: `trim.py RUN`."""

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sae_features import first_row_per_feature
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tasks.feature_description import TASK

COLUMNS = ["layer", "sae_id", "feature_index", "activations", "description", "simulator_score", "exemplars"]
N_FEATURES, N_EXEMPLARS = 100, 3
EMBEDDED = RunDirectory(Path(__file__).parent / "embedded")


def trim(run: RunDirectory, out: RunDirectory = EMBEDDED) -> None:
    """Copy the results and one row for each of the first `N_FEATURES` held-out features, with fewer exemplars."""
    out.root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run.results_path, out.results_path)
    rows = pq.read_table(run.dataset(TASK.name).rows("test"), columns=COLUMNS)
    kept = [
        {**row, "exemplars": row["exemplars"][:N_EXEMPLARS]}
        for row in first_row_per_feature(rows.to_pylist())[:N_FEATURES]
    ]
    path = out.dataset(TASK.name).rows("test")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(kept, schema=rows.schema.remove_metadata()), path, compression="zstd")


if __name__ == "__main__":
    trim(RunDirectory(Path(sys.argv[1])))

"""Keep of a run of recipes/tiny.yaml what this page shows of it: `python trim.py RUN` writes embedded/ anew."""

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ["layer", "sae_id", "feature_index", "activations", "description", "simulator_score", "exemplars"]
N_FEATURES, N_EXEMPLARS = 100, 3
OUT = Path(__file__).parent / "embedded"


def trim(run: Path) -> None:
    """Copy the results, and one row with fewer exemplars of each of the first held-out features."""
    shutil.copyfile(run / "results.json", OUT / "results.json")
    rows = pq.read_table(run / "datasets" / "feature_description" / "test.parquet", columns=COLUMNS)
    first: dict[tuple[int, str, int], dict] = {}
    for row in rows.to_pylist():
        first.setdefault(
            (row["layer"], row["sae_id"], row["feature_index"]), row | {"exemplars": row["exemplars"][:N_EXEMPLARS]}
        )
    kept = pa.Table.from_pylist(list(first.values())[:N_FEATURES], schema=rows.schema.remove_metadata())
    path = OUT / "datasets" / "feature_description" / "test.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(kept, path, compression="zstd")


if __name__ == "__main__":
    trim(Path(sys.argv[1]))

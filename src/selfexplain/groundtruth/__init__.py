"""Ground truth: what interventions really do, as datasets."""

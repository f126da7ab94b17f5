"""Score explainers against the ground truth, together with controls and baselines."""

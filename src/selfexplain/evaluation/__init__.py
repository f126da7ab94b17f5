"""Score explainers against the ground truth, beside what scores without explaining anything."""

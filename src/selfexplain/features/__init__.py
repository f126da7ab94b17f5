"""Features of a model: train or load SAEs, find exemplars, write descriptions of features, score descriptions."""

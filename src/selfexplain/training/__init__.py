"""Train explainers on ground-truth rows."""

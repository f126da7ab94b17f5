"""Load explainers of other projects."""

"""Load explainers that other projects trained."""

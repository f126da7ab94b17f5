"""Recipes: what to run, as YAML, and the engine that runs it."""

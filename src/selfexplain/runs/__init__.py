"""Recipes, run directories and the engine that executes steps. Nothing here depends on what the steps do."""

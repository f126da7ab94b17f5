"""A run: its recipe, its directory and the engine that executes steps. Knows nothing about what the steps do."""

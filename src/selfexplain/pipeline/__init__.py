"""Run a recipe: ground truth, training, evaluation, comparison and cards."""

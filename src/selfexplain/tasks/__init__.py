"""The three questions: how each is put, how its answer is written and read."""

TASKS = ("feature_description", "activation_patching", "input_ablation")

"""Build datasets of ground truth: questions about a target, with answers from running the target."""

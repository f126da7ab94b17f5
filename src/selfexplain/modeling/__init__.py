"""What is published: the explainer, its injection contract, its adapter and its processor."""

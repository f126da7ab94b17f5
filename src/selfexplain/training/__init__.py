"""Teach an explainer to say the ground truth."""

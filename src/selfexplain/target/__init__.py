"""The model being explained: load it, read its activations, intervene on it."""

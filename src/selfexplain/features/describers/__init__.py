"""Describe features: offline in a small grammar, with a chat model, or with labels from Neuronpedia."""

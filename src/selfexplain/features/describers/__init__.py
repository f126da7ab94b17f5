"""Write descriptions of features: offline, with a chat model, or from Neuronpedia."""

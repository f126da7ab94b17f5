"""Directions of sparse autoencoders: train or load them, find where they fire, describe them, score descriptions."""

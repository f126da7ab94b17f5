"""Builders: how the rows of each task are made."""

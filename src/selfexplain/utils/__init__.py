"""Helpers that every package uses: files, hashes, processes, names and formatting."""

"""Publish a finished run on the Hub: cards, checks and uploading."""

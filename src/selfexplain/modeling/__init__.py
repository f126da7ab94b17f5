"""The explainer model: configuration, injection contract, adapter, processor and published files."""

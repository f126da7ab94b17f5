"""Turn a finished run directory into what can be published. Reads files only."""

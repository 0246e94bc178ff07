"""Other harnesses; each module is the only place that imports its package, and nothing else needs it."""

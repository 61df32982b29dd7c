"""Speed claims: each a ratio against a named peer, measured side by side in one run."""

"""Typed runs: configuration, named recipes, the command line and the demo."""

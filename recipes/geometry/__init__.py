"""The embedded depth and normal network: scenes with exact truth, and how it is trained on them."""

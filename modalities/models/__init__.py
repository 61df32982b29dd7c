"""Pretrained networks that extractors call: one file a family, loaded once a worker."""

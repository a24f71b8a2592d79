"""Datasets, video decoding and the built-in data."""

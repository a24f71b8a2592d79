"""Datasets, video reading and the built-in data."""

"""Configs: words into cells."""

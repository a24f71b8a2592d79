"""Configs of datasets."""

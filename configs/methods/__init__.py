"""Configs of methods."""

"""Configs of protocols."""

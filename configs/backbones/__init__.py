"""Configs of backbones."""

"""Configs: what a run can name. One Python file each (MMEngine configs)."""

"""Stored arrays and files that are never believed: what they claim is checked before it is used. Imports no torch."""

"""Stored files that are never believed: seals of intermediates, claims checked before they are used. Imports no torch."""

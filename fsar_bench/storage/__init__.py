"""Stored files that are never believed: seals of intermediates, and claims that are checked before they are used. Imports no torch."""

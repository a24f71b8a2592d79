"""Stored intermediates: sealed when they are written, and believed only if the seal is right. Imports no torch."""

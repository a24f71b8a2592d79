"""Tuning: trials of a method's settings, each a training that is measured on val, with one budget for all methods."""

"""The committed results, their tables, and `published.csv`, the literature, which installs as package data."""

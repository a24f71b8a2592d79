"""The committed results, and package data: `published.csv`, the literature, and `committed.json`, digests of the results."""

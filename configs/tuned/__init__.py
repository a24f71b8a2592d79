"""Tuned settings, DATASET/METHOD.json, as `fsar-bench tune` wrote them."""

"""The field's usual protocol: 5-way, 10,000 test episodes, one query per class, 8 frames at segment midpoints."""

protocol = dict(way=5, shot=1, query=1, episodes=10_000, frames=8, template="a photo of {}")

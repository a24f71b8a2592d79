"""The program that trains the small CLIP of the built-in data. The engine never imports it."""

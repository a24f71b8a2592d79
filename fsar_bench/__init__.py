"""fsar-bench: a modular benchmark suite for few-shot action recognition."""

__version__ = "0.1.0"

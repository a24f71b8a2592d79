"""Performance: `python -m tools.performance` measures this machine and fsar-bench on it, and writes docs/performance.md."""

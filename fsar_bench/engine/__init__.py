"""The engine: turns a cell into a result."""

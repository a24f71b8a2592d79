"""Progress: events of stages, and the screen that shows them."""

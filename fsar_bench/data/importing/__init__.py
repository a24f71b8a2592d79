"""From published lists and clips on a disk to annotations, and checks of the result."""

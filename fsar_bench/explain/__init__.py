"""One episode of a result, in pictures."""

"""What names and other texts may hold, and how each kind of output shows them without obeying them."""

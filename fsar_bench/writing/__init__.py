"""Writing: files that appear together or not at all, what the errors of disks mean, and logs that cannot fail."""

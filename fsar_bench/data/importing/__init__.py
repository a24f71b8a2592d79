"""Published lists and clips on a disk, made into annotations."""

"""The commands of ./dev, one a file."""

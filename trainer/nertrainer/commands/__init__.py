"""The commands of `nertrainer`, one a file."""

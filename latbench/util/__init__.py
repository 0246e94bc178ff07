"""Helpers that know nothing of the project: files, signals, progress."""

"""Importers of released checkpoints: one file for each format, each with its `IMPORTER`."""

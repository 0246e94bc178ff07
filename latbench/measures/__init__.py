"""A measure is a number about an evaluation that needs more than its records."""

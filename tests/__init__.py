"""Tests of latbench, by the room they test; helpers of several tests are modules here, imported by their full name."""

"""Many runs: what a sweep holds, and what carries its jobs out."""

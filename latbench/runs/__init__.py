"""A run is trained: its folder, its training, its lock, its environment."""

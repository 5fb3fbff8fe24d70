"""A whole installation under load: what its clients saw, held against what was stored."""

"""Vectors: what arrives is embedded and indexed, once in effect; searches over it are answered."""

"""Feast 0.67: the only package that imports it. What it takes of Feast's insides (`_get_provider`, the Redis store's key
functions) is there because its front door costs two to four times as much; tests compare both, and the version is pinned."""

"""Watchlists: what is indexed or shown is compared with known items; and dead letters, which somebody has to look at."""

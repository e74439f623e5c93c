"""Vectors as doors, producers and the command line share them; the service is services/vectors."""

"""What is outside: a file per outside thing. Qdrant is imported only here."""

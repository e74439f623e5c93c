"""What is outside: one file for each thing."""

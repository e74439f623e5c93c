"""Answers that outlive their asker: what is kept of them, and how it is read again."""

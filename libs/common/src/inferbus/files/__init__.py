"""Files: bodies in object storage (or a folder), and what the bus knows of them."""

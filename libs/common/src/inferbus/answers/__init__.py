"""How an answer travels: the worker's attempts write frames, the asker puts them together, exactly once."""

"""The command line, `inferbus`: one file per noun, nothing but reading options, calling one thing, and printing."""

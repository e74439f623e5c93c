"""vLLM in this process.

`engine` and `plugin` can be imported without vLLM; every other module here imports it, and is itself imported only
by the thread that starts an engine. Nothing outside this package knows vLLM.
"""

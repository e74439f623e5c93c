from inferbus.process import runtime
from inferbus_llm_worker.main import main

if __name__ == "__main__":  # vLLM spawns processes that import this module
    runtime.run(main)

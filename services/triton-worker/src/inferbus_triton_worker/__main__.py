from inferbus.process import runtime
from inferbus_triton_worker.main import main

if __name__ == "__main__":
    runtime.run(main)

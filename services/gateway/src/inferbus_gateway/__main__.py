from inferbus.process import runtime
from inferbus_gateway.main import main

if __name__ == "__main__":
    runtime.run(main)

"""What reaches outside: the Triton server, over gRPC and as a process."""

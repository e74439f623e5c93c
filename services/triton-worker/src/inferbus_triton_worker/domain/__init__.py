"""What is decided about models and requests. No bus, no gRPC, no clock."""

"""KServe v2 (Open Inference Protocol) over HTTP: bodies, paths and content types. Pure: bytes in, bytes out."""

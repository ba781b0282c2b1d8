"""Unary gRPC over an HTTP/2 layer of our own, for the one method that every call waits for (docs/architecture.md, "Check")."""

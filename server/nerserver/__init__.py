"""The gRPC service: batching, engine, reload and the command `nerserver`."""

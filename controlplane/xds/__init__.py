"""What exists, told to Envoys and authorizers over xDS: resources, snapshot, cache, stream, publisher, rollout."""

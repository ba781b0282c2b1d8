"""The control plane and what operators touch: registry, HTTP API, discovery, prober, supervisor, command line."""

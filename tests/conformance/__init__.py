"""The MCP conformance suite, run against a fixture server of ours: direct and through the whole gateway."""

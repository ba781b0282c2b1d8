"""The aggregator: an MCP endpoint for virtual servers, and the bridge between the eras of the protocol."""

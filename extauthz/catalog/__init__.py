"""What exists: MCP servers and their reviewed tools."""

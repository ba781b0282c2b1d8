"""MCP messages as the gateway reads them: strictly, once, in two eras."""

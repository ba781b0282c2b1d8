"""The demo: two sample MCP servers, a small registry, and the tour that shows what governs them."""

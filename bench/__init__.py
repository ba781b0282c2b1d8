"""What a governed call costs and how fast an edit is live: `make bench`. Not a test: numbers depend on the machine."""

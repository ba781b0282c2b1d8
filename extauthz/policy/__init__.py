"""Who may do what: Cedar policies, compiled when they change and evaluated per call."""

"""Who asks: identity providers, access tokens, and the principal that a verified token makes."""

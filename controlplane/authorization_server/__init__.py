"""The OAuth authorization server that stands before an identity provider which knows neither client metadata documents nor registration."""

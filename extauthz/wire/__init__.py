"""Generated from protos/extauthz/wire: the fields we read of Envoy's own services. Never edited by hand."""

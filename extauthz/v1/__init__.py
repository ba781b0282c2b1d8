"""Generated from protos/extauthz/v1: our own messages. Never edited by hand."""

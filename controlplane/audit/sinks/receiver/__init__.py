"""The receivers of records, each with its own rules of what counts as received."""

"""Sends the record on to where AuditSinks say: each record at least once, in order, and only what a receiver acknowledged counts."""

"""The record: written before a decision leaves the process."""

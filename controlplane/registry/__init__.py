"""The registry: documents, their rules, their history, one door for every change."""

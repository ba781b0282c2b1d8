"""The forms in which receivers take records: pure functions of one record each."""

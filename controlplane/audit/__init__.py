"""The record at the control plane: taken from its writers, kept, proven, asked, and sent on to where an operator wants it."""

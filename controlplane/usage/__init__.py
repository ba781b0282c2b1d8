"""Usage and cost: one record of every call, rolled up by the hour, and the reports that are made of it."""

"""What is usual: how often each caller uses which tool at which hour of the week, kept as calls come, and what is not."""

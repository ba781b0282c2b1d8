"""`legation up`: one process that starts, watches and stops all others of a deployment on one machine."""

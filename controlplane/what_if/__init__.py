"""What if these policies had been in force: recorded calls are decided again, by the functions that decided them."""

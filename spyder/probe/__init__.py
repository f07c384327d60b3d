"""What is done to one host: the visit and its collectors."""

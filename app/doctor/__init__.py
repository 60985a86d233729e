"""What is wrong with this machine and these hosts; needs Python's own library alone."""

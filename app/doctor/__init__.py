"""What is wrong with this machine and other hosts; needs only Python's standard library."""

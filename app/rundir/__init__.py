"""A run directory: where its files are, what they say of the run, who may write them."""

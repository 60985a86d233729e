"""Asynchronous training: TensorFlow's parameter servers hold the variables, workers change them
without waiting for each other, and a coordinator deals batches to whichever worker is free.

The coordinator is the run for all who watch it: it has the loop, the checkpoints and the shows, as
the one rank of a world of its own. Workers hold the data and read each batch by its indices.
`launch/parameter_servers.sh` starts all three kinds of process; TF_CONFIG tells each its part
(app/distributed/launcher.py). Hogwild: Recht et al. 2011, arXiv:1106.5730; bounded staleness: Ho et
al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server".
"""

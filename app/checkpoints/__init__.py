"""How the state of a run is kept on disk, and where one begins with that of another."""

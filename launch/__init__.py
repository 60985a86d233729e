"""How ranks are started; `python -m launch.start` is what the launch scripts run."""

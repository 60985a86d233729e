"""Shows a run: terminal, TensorBoard, logs, profiles."""

"""What shows a run: terminal, TensorBoard, logs, profiles."""

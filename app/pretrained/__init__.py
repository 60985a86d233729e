"""Encoders that others have trained: found, checked, and put into a network; and how they are
fine-tuned. Reading knows no TensorFlow, so that mistakes are reported at once."""

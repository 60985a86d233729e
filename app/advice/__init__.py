"""What communication costs, measured and predicted, and which way of it pays."""

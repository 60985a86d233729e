"""What is learned from a label, and how: losses, rules, averages, and when it is enough."""

"""What lists are worth: metrics, slices, confidence intervals, baselines, tables, and the protocol they state."""

"""The schema of the chart's values."""

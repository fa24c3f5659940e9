"""Makes the JSON schema of the chart's values."""

"""Read a model directory."""

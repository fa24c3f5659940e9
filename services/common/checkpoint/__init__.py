"""Reading a model directory."""

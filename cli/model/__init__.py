"""The commands about a model directory: check, download, prove and prepare it."""

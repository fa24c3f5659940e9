"""The cache of finished speech."""

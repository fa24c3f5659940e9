"""The result cache: finished speech, and syntheses shared by equal requests."""

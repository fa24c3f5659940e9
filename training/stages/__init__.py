"""The stages of the recipe, in order. Each has a function `run` and resumes where it stopped."""

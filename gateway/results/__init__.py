"""Finished speech that is given again when the same is asked for: off unless configured."""

"""Rules for Chinese. `table.py` has their order."""

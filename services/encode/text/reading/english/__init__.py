"""Rules for English, one module for each subject; `table` has their order."""

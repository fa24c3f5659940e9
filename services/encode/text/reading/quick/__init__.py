"""Quick readings of frequent numbers. They are those of the rules, which need many passes over a sentence."""

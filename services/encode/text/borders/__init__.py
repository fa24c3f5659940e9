"""Where a sentence ends: abbreviations, lines of a document, and units that are never divided."""

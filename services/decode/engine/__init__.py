"""The decode engine: scheduling of hops."""

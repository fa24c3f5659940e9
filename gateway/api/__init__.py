"""The APIs that clients use, a folder per product."""

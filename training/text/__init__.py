"""The sentences that the teacher speaks."""

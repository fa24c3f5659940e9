"""The gateway's interfaces: each turns its own wire into the session's inputs and the session's events back."""

"""The HTTP server and the ports of the gateway process."""

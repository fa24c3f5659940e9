"""Who may use the gateway, and how much: keys, the caller of a request, quotas."""

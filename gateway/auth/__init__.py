"""API keys, quotas and admission."""

"""Parts that several APIs share."""

"""The error of a service that cannot start. Imports nothing, so that engines can raise it on machines without gRPC."""

from __future__ import annotations


class StartError(Exception):
    """The service cannot start; the message gives the reason and what to do."""

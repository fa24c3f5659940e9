"""Networks that only training has. Flow, vocoder and language model are those of the services."""

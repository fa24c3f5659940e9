"""The recipe of the embedded voice: from packages of a registry to `models/tiny`. Not part of the installed product."""

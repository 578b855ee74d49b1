"""perdure: user models that keep learning and never forget."""

__version__ = "0.1.0"

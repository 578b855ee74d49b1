"""`python -m perdure`: the command line."""

from __future__ import annotations

from perdure.cli.main import command

if __name__ == "__main__":
    command()

"""Arguments and options that several verbs share, and the words that some of them take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Allow", "AllowLeaks", "Answered", "Changes", "Deny", "Json", "Log", "Model", "OnTop", "Part", "Recipe", "Resume",
    "Seen", "Store", "version",
]  # fmt: skip

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="a TOML file, see docs/settings.md")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="a model folder, or the run folder that holds it")]
Changes = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="one setting, such as train.epochs=3; may be repeated"),
]
Store = Annotated[Path | None, typer.Option("--store", help="the prepared log, where it is not beside the model")]
Log = Annotated[
    Path | None, typer.Option("--store", help="the prepared log, where it is not beside the model; or a later one")
]
AllowLeaks = Annotated[bool, typer.Option("--allow-leaks", help="go on where the audit finds a leak")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]


class Resume(StrEnum):
    """Values of --resume."""

    never, auto, must = "never", "auto", "must"


class Part(StrEnum):
    """Values of --split."""

    valid, test = "valid", "test"


class OnTop(StrEnum):
    """Values of --head."""

    linear, mlp = "linear", "mlp"


class Seen(StrEnum):
    """Values of --seen."""

    drop, keep = "drop", "keep"


Answered = Annotated[
    Seen | None,
    typer.Option(
        "--seen",
        help="drop: items of the history, and answers the log already holds of a user, are left out; keep: not",
    ),
]
Allow = Annotated[str | None, typer.Option("--allow", help="only these answers: with commas between, or @FILE")]
Deny = Annotated[str | None, typer.Option("--deny", help="none of these answers: with commas between, or @FILE")]


def version(asked: bool) -> None:
    """--version"""
    if asked:
        from perdure import __version__

        typer.echo(f"perdure {__version__}")
        raise typer.Exit

"""What makes something, one short function a verb: options in, one call of the API, tables or JSON out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import AllowLeaks, Changes, Json, Recipe, Resume, version

__all__ = ["app"]

app = typer.Typer(
    name="perdure",
    help="User models that keep learning and never forget.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Begin with: perdure quickstart --out first",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="print the version")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="print the traceback of an error; may stand anywhere")] = False,
) -> None:
    pass


@app.command(epilog="Example: perdure quickstart --out first")
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="a new or empty folder")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the world and of the learning")] = 0,
    users: Annotated[
        int, typer.Option("--users", min=100, max=1_000_000, help="users of the world; fewer learn less, and faster")
    ] = 2400,
    json: Json = False,
) -> None:
    """See it work: six tasks learned in a small world.

    Makes a world, teaches a model six tasks one after the other, and shows that none is forgotten.
    """
    from perdure import api
    from perdure.cli import show

    with show.progress() as display:
        told = api.quickstart(out, seed=seed, users=users, show=display)
    show.result(told, json, show.quickstart)


@app.command(epilog="Example: perdure check first/recipe.toml")
def check(recipe: Recipe, changes: Changes = None, json: Json = False) -> None:
    """Try a recipe without training.

    Reads settings, files, columns, filters and tasks, and tells what would be learned and what it would take.
    """
    from perdure import api
    from perdure.cli import show

    with show.progress() as display:
        found = api.check(recipe, overrides=changes or (), show=display)
    show.result(dataclasses.asdict(found), json, show.check)


@app.command(epilog="Example: perdure prepare first/recipe.toml --out store")
def prepare(
    recipe: Recipe,
    out: Annotated[Path, typer.Option("--out", help="the store's folder")],
    changes: Changes = None,
    json: Json = False,
) -> None:
    """Turn the log of a recipe into a store.

    The store is sorted and memory-mapped and has a data card; bad rows are set aside with their reasons.
    """
    from perdure import api
    from perdure.cli import show

    with show.progress() as display:
        made = api.prepare(recipe, out, overrides=changes or (), show=display)
    show.result(dataclasses.asdict(made), json, show.prepare)


@app.command(epilog="Example: perdure learn first/recipe.toml --out again -s tuning.method=peterrec")
def learn(
    recipe: Recipe,
    out: Annotated[Path, typer.Option("--out", help="the run's folder: new or empty, or to be resumed")],
    changes: Changes = None,
    resume: Annotated[
        Resume,
        typer.Option(
            "--resume", help="go on with a run that was cut; where there is none, auto begins one and must does not"
        ),
    ] = Resume.never,
    json: Json = False,
) -> None:
    """Learn all tasks of a recipe, one after the other.

    After each, all tasks so far are measured, and the model is saved.
    """
    from perdure import api
    from perdure.cli import show

    with show.progress() as display:
        done = api.learn(recipe, out, overrides=changes or (), resume=resume.value, show=display)  # type: ignore[arg-type]
    show.result(dataclasses.asdict(done), json, show.learn)


@app.command(epilog="Example: perdure compare first/recipe.toml --methods pcl,finetune --seeds 1,2 --out compared")
def compare(
    recipe: Recipe,
    out: Annotated[Path, typer.Option("--out", help="the comparison's folder: new or empty, or to be gone on with")],
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="with commas between, such as pcl,single; see `perdure list methods`"),
    ] = None,
    encoders: Annotated[
        str | None, typer.Option("--encoders", help="with commas between, such as sasrec,gru4rec")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="with commas between, such as 1,2,3")] = None,
    orders: Annotated[
        str | None, typer.Option("--orders", help="of tasks: forward, reversed, noisy, with commas between")
    ] = None,
    protocols: Annotated[
        str | None, typer.Option("--protocols", help="how users are split: clean, as-coded, user-each")
    ] = None,
    changes: Changes = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="set each method against this one, not against the best of the others"),
    ] = None,
    allow_leaks: AllowLeaks = False,
    json: Json = False,
) -> None:
    """Compare methods on the tasks of a recipe.

    Learns them with every method, encoder, seed and order; the first task once for all that can share it. Run again,
    with the same settings, it does what is missing and goes on with what was cut; methods, encoders, seeds and orders
    that are not given are those of the folder, or the recipe's. What is shared and how p is found: docs/compare.md.
    """
    from perdure import api
    from perdure.cli import compared, show

    with show.progress() as display:
        done = api.compare(
            recipe,
            out,
            methods=show.names(methods),
            encoders=show.names(encoders),
            seeds=show.numbers(seeds, "--seeds", 0),
            orders=show.names(orders),
            protocols=show.names(protocols),
            overrides=changes or (),
            against=against,
            allow_leaks=allow_leaks,
            show=display,
        )
    show.result(dataclasses.asdict(done), json, compared.compare)
    if done.failed:
        raise typer.Exit(1)


@app.command(epilog="Example: perdure search first/recipe.toml --out best -s search.train.learning_rate=[1e-3,3e-3]")
def search(
    recipe: Recipe,
    out: Annotated[Path, typer.Option("--out", help="the search's folder: new or empty, or to be gone on with")],
    methods: Annotated[
        str | None, typer.Option("--methods", help="with commas between, such as pcl,lora; the recipe's by default")
    ] = None,
    tries: Annotated[
        int | None, typer.Option("--tries", min=2, help="with each method; by default as many as all have choices for")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="of every try, with commas between; the recipe's by default")
    ] = None,
    changes: Changes = None,
    allow_leaks: AllowLeaks = False,
    json: Json = False,
) -> None:
    """Try settings with each method, as many with each.

    What is tried stands in the recipe's [search]; the best of each method, by the validation users, is written as
    [compare.<method>] sections to put into the recipe. Run again, it does what is missing: docs/compare.md.
    """
    from perdure import api
    from perdure.cli import compared, show

    with show.progress() as display:
        done = api.search(
            recipe,
            out,
            methods=show.names(methods),
            tries=tries,
            seeds=show.numbers(seeds, "--seeds", 0),
            overrides=changes or (),
            allow_leaks=allow_leaks,
            show=display,
        )
    show.result(dataclasses.asdict(done), json, compared.search)
    if done.failed:
        raise typer.Exit(1)

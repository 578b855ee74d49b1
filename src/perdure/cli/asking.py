"""What asks of folders that stand, one short function a verb: options in, one call of the API, tables or JSON out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import Allow, Answered, Changes, Deny, Json, Log, Model, OnTop, Part, Recipe, Seen, Store
from perdure.cli.verbs import app

__all__ = ["app"]


@app.command(epilog="Example: perdure evaluate first/model --task buy")
def evaluate(
    model: Model,
    task: Annotated[str | None, typer.Option("--task", help="one task; all of them by default")] = None,
    split: Annotated[Part, typer.Option("--split", help="which held-out users")] = Part.test,
    ks: Annotated[str | None, typer.Option("--ks", help="cut-offs with commas between, such as 1,10")] = None,
    seen: Annotated[
        Seen | None, typer.Option("--seen", help="drop: items of the input are no answers; keep: they are")
    ] = None,
    sampled: Annotated[
        str | None,
        typer.Option(
            "--sampled",
            help='rank each answer among 100 drawn items only: "100 uniform" or "100 popularity"; among all: "all"',
        ),
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Measure a model on held-out users.

    What is not given is as the recipe of its run says in [evaluate].
    """
    from perdure import api
    from perdure.cli import show

    with show.progress() as display:
        scores = api.evaluate(
            model,
            task=task,
            split=split.value,  # type: ignore[arg-type]
            ks=show.numbers(ks, "--ks", 1),
            seen=seen.value if seen else None,  # type: ignore[arg-type]
            sampled=sampled,
            store=store,
            show=display,
        )
    show.result({"scores": scores}, json, show.evaluate)


@app.command(epilog="Example: perdure recommend first/model --task buy --history s0001,s0013 -k 5")
def recommend(
    model: Model,
    task: Annotated[str, typer.Option("--task", help="the task to answer, as the recipe names it")],
    user: Annotated[
        str | None, typer.Option("--user", help="a user of the log, with the history the log holds")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            "--history",
            help="item ids with commas between, oldest first; @FILE, one a line, for ids with commas",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="what else is known, such as gender=F,age=25; with or without a history"),
    ] = None,
    marks: Annotated[
        str | None,
        typer.Option(
            "--marks", help="what else is told of each event of the history, such as 'behaviour=view;behaviour=buy'"
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="how many answers; by default 10, or every class where the task is one_of")
    ] = None,
    seen: Answered = None,
    allow: Allow = None,
    deny: Deny = None,
    store: Log = None,
    json: Json = False,
) -> None:
    """Ask a model about a user, or about any history.

    Needs --user, --history or --profile. Items the model does not know are ignored and told.
    """
    from perdure import api
    from perdure.cli import show

    answer = api.recommend(
        model,
        task=task,
        user=user,
        history=show.ids(history, "--history"),
        profile=show.fields(profile, "--profile"),
        marks=show.marks(marks, "--marks"),
        k=k,
        seen=seen.value if seen else None,  # type: ignore[arg-type]
        allow=show.ids(allow, "--allow"),
        deny=show.ids(deny, "--deny"),
        store=store,
    )
    show.result(answer, json, show.recommend)


@app.command(name="recommend-all", epilog="Example: perdure recommend-all first/model --task buy --out answers.parquet")
def recommend_all(
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="the Parquet file to write")],
    task: Annotated[str, typer.Option("--task", help="the task to answer, as the recipe names it")],
    users: Annotated[
        str | None, typer.Option("--users", help="only these: ids with commas between; or @FILE, one a line")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="how many answers to each")] = 10,
    seen: Answered = None,
    allow: Allow = None,
    deny: Deny = None,
    store: Log = None,
    json: Json = False,
) -> None:
    """Write what a model answers to all users to a Parquet file.

    Its columns are user, item, rank, score and source, a row an answer, best first.
    """
    from perdure import api
    from perdure.cli import show

    with show.progress() as display:
        told = api.recommend_all(
            model,
            out,
            task=task,
            users=show.ids(users, "--users"),
            k=k,
            seen=seen.value if seen else None,  # type: ignore[arg-type]
            allow=show.ids(allow, "--allow"),
            deny=show.ids(deny, "--deny"),
            store=store,
            show=display,
        )
    show.result(told, json, show.written)


@app.command(epilog="Example: perdure embed first/model --out users.parquet")
def embed(
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="the Parquet file to write")],
    task: Annotated[
        str | None, typer.Option("--task", help="as this task sees the users; the plain backbone by default")
    ] = None,
    store: Log = None,
    json: Json = False,
) -> None:
    """Write the vectors of all users to a Parquet file.

    Its columns are user and vector, 32-bit floats.
    """
    from perdure import api
    from perdure.cli import show

    with show.progress() as display:
        told = api.embed(model, out, task=task, store=store, show=display)
    show.result(told, json, show.written)


@app.command(epilog="Example: perdure probe first/model first/recipe.toml --task gender --repeats 2")
def probe(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="model or run folders, one or more")],
    recipe: Recipe,
    task: Annotated[str | None, typer.Option("--task", help="one task; all but next_item ones by default")] = None,
    head: Annotated[
        OnTop, typer.Option("--head", help="what is solved on the vectors; mlp has one hidden layer")
    ] = OnTop.linear,
    repeats: Annotated[int, typer.Option("--repeats", help="how often labelled users are drawn anew")] = 5,
    labelled: Annotated[float, typer.Option("--labelled", help="share of the training users with labels")] = 0.8,
    finetune: Annotated[bool, typer.Option("--finetune", help="also train each whole model on each task")] = False,
    changes: Changes = None,
    store: Store = None,
    out: Annotated[Path | None, typer.Option("--out", help="a new or empty folder for probe.json and probe.md")] = None,
    json: Json = False,
) -> None:
    """Judge frozen user vectors.

    Solves a head on the vectors of each model for every task of the recipe, and on those of untrained encoders, on
    profiles and on popularity: one table of what pre-training has given.
    """
    from perdure import api
    from perdure.cli import show

    told = api.probe(
        models,
        recipe,
        task=task,
        head=head.value,  # type: ignore[arg-type]
        repeats=repeats,
        labelled=labelled,
        finetune=finetune,
        overrides=changes or (),
        store=store,
        out=out,
    )
    show.result(dataclasses.asdict(told), json, show.probe)


@app.command(name="list", epilog="Example: perdure list methods")
def list_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="methods, encoders, objectives or formats")],
    json: Json = False,
) -> None:
    """What there is: name, paper, one line each."""
    from perdure import api
    from perdure.cli import show

    show.result({kind: api.list_(kind)}, json, show.listing)


@app.command(name="show", epilog="Example: perdure show first")
def show_(
    path: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="a model folder or a run folder")],
    json: Json = False,
) -> None:
    """The card of a model or run, every digest verified."""
    from perdure import api
    from perdure.cli import show

    show.result(api.show(path), json, show.card)


@app.command(epilog="Example: perdure report first")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run or of a comparison, finished or not")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="where to write; report.html in that folder by default")
    ] = None,
    json: Json = False,
) -> None:
    """Write the page of a run or of a comparison.

    It is one HTML file; of a comparison its tables are written as Markdown, too.
    """
    from perdure import api
    from perdure.cli import show

    show.result({"report": str(api.report(run, out))}, json, show.pairs)


@app.command(epilog="Example: perdure doctor")
def doctor(
    selftest: Annotated[
        bool, typer.Option("--selftest/--no-selftest", help="learn a small world to see that all works")
    ] = True,
    json: Json = False,
) -> None:
    """What this machine has, and a self test."""
    from perdure import api
    from perdure.cli import show

    told = api.doctor(selftest=selftest)
    show.result(told, json, show.doctor)
    if not told["ok"]:
        raise typer.Exit(5)

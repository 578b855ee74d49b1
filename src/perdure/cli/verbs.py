"""One short function a verb: options in, one call of the API, tables or JSON out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import AllowLeaks, Changes, Json, Log, Model, OnTop, Part, Recipe, Resume, Seen, Store, version

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

    show.result(dataclasses.asdict(api.check(recipe, overrides=changes or ())), json, show.check)


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

    show.result(dataclasses.asdict(api.prepare(recipe, out, overrides=changes or ())), json, show.prepare)


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

    scores = api.evaluate(
        model,
        task=task,
        split=split.value,  # type: ignore[arg-type]
        ks=show.numbers(ks, "--ks", 1),
        seen=seen.value if seen else None,  # type: ignore[arg-type]
        sampled=sampled,
        store=store,
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
        typer.Option("--history", help="item ids with commas between, oldest first; or @FILE, one a line"),
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
    k: Annotated[int, typer.Option("-k", help="how many answers")] = 10,
    seen: Annotated[
        Seen | None,
        typer.Option(
            "--seen",
            help="drop: items of the history, and answers the log already holds of --user, are left out; keep: not",
        ),
    ] = None,
    allow: Annotated[str | None, typer.Option("--allow", help="only these answers, given as for --history")] = None,
    deny: Annotated[str | None, typer.Option("--deny", help="none of these answers, given as for --history")] = None,
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

    show.result(api.embed(model, out, task=task, store=store), json, show.embed)


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

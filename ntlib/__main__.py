"""`python -m ntlib`: execute the chapters, render the book, check what is committed; generate."""

from pathlib import Path

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    default=Path(__file__).resolve().parents[1],
    help="A checkout of the book; by default the one that ntlib lies in.",
)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    """The book's workshop."""
    from ntlib.publishing.layout import Layout

    context.obj = Layout(root)


@main.command()
@click.option("--only", default="", help="Names, or parts of them, of chapters; comma-separated.")
@click.option("--profile", default="book", show_default=True, help="smoke, book or full.")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Another value for a notebook's parameter; may be repeated.",
)
@click.option("--write-back", is_flag=True, help="Replace the committed notebooks that ran.")
@click.pass_obj
def execute(layout, only, profile, parameters, write_back) -> None:
    """Run chapters; the result lies in _build/executed."""
    import yaml

    from ntlib.publishing.execute import execute as run
    from ntlib.publishing.execute import report

    values = {"profile": profile} | {name: yaml.safe_load(value) for name, value in parameters}
    chapters = layout.chapters(only)
    outcomes = run(layout, chapters, values, write_back=write_back)
    click.echo(report(outcomes))
    if write_back and values != {"profile": "book"}:
        click.echo("Committed outputs stay as they were: they show the book profile.")
        click.echo(f"This run is in {layout.executed(values['profile'])}")
    if any(outcome.failure for outcome in outcomes):
        raise SystemExit(1)


@main.command()
@click.option("--executed", is_flag=True, help="The chapters as just run, not as committed.")
@click.pass_obj
def render(layout, executed) -> None:
    """Make the pages in _build/html."""
    import json
    import time

    from ntlib.publishing.execute import TIMINGS
    from ntlib.publishing.render import render as build

    started = time.perf_counter()
    chapters = layout.executed("book") if executed else layout.notebooks
    index = build(layout, chapters)
    timings = chapters / TIMINGS
    for stem, seconds in json.loads(timings.read_text()).items() if timings.exists() else []:
        click.echo(f"{stem}: {seconds} s to execute")
    click.echo(f"Rendered in {time.perf_counter() - started:.1f} s. The book is at {index}")


@main.command()
@click.option("--only", default="", help="Names, or parts of them, of chapters; comma-separated.")
@click.pass_obj
def check(layout, only) -> None:
    """Are the committed outputs complete and fresh?"""
    from ntlib.publishing import freshness, notebook

    stale = False
    for path in layout.chapters(only):
        reasons = freshness.check(path, layout.root) + notebook.incomplete(notebook.read(path))
        stale = stale or bool(reasons)
        click.echo(f"{path.stem}: {'not fresh' if reasons else 'fresh and complete'}")
        for reason in reasons:
            click.echo(f"  {reason}")
    if stale:
        raise click.ClickException("refresh them with `make notebooks`")


@main.command()
@click.pass_obj
def tidy(layout) -> None:
    """Bring committed notebooks into canonical form, as after editing prose in Jupyter."""
    from ntlib.publishing import notebook

    for path in layout.chapters():
        notebook.write(notebook.normalise(notebook.read(path), drop_injected=True), path)


@main.command()
@click.pass_obj
def share(layout) -> None:
    """How much of each chapter a rerun is compared with."""
    from ntlib.publishing import notebook

    for path in layout.chapters():
        compared, cells = notebook.compared_share(notebook.read(path))
        click.echo(
            f"{path.stem}: {compared} of {cells} code cells compared ({compared / cells:.0%})"
        )


@main.command()
@click.argument("name")
@click.pass_obj
def record(layout, name) -> None:
    """Run a long experiment and keep its rows in data/results; continues where it was stopped."""
    from ntlib.records import record as run

    try:
        click.echo(run(name, layout.root / "_build" / "records"))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@main.command()
@click.option(
    "--weights",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="RWKV-4, 5.2, 6, 7, Mamba or Mamba-2: .pth, .bin, safetensors, or an index of several.",
)
@click.option("--prompt", required=True, help="The text to continue.")
@click.option(
    "--tokenizer",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A World vocabulary (.txt) or a tokenizer.json. Found: tokenizer.json beside the weights, "
    "and World's if rwkv is installed.",
)
@click.option("--tokens", default=100, show_default=True, help="New tokens, at most.")
@click.option("--temperature", default=1.0, show_default=True, help="0: always the most probable.")
@click.option("--top-p", default=0.7, show_default=True, help="Share of probability kept.")
@click.option("--seed", default=0, show_default=True, help="Another seed, another text.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of weights, activations and the residual stream; states are float32.",
)
def generate(weights, prompt, tokenizer, tokens, temperature, top_p, seed, dtype) -> None:
    """Continue a text with a published model; the text streams, tokens per second at the end."""
    from ntlib.models.completion import complete
    from ntlib.models.generation import Sampling

    options = {"tokenizer": tokenizer, "n_tokens": tokens, "seed": seed, "dtype": dtype}
    try:
        sampling = Sampling(temperature, top_p=top_p)
        completion = complete(weights, prompt, sampling=sampling, **options)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    try:
        for text in completion:
            click.echo(text, nl=False)
    finally:
        click.echo()
        click.echo(completion.speed, err=True)


@main.command()
@click.argument("chapter")
@click.argument("figure")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def picture(layout, chapter, figure, target) -> None:
    """Write a figure of a committed chapter to an SVG file, for the README."""
    from ntlib.publishing.picture import picture as draw
    from ntlib.results import write_atomically

    (path,) = layout.chapters(chapter)
    write_atomically(target, draw(path, figure))


if __name__ == "__main__":
    main(prog_name="python -m ntlib")

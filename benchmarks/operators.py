"""Every operator and mixer beside what others offer, attention and the limits of this machine.

    python -m benchmarks.operators --help

Rows go to data/results: operators-speed (forward, training, decoding at fixed shapes) and
operators-scaling (time and memory against length).
"""

import os
import shlex
import sys
import time
from pathlib import Path

import click
import pandas as pd
import pytest

from benchmarks import report, scaling
from benchmarks.contenders import (
    CONTEXT,
    DECODE_STEPS,
    SEED,
    Contender,
    decoding_call,
    forward_call,
    sequences,
    training_call,
)
from benchmarks.limits import Limits, Work
from benchmarks.mixer_cases import Mixer, attention, mixers
from benchmarks.operator_cases import OPERATORS, Operator
from benchmarks.report import ATTENTION, OURS, Settings
from ntlib import results
from ntlib.measuring import environment

QUICK_SHAPE, QUICK_LENGTHS = (1, 256), (256, 512, 1024)


def mixer_rows(name, mixer: Mixer, rivals, settings, limits, shapes) -> list[pd.DataFrame]:
    """Forward, training and decoding of one mixer."""
    contenders = {OURS: mixer.ours(), **rivals}
    if mixer.part == "mixer":
        contenders[ATTENTION] = attention()
    parameters = sum(p.numel() for p in contenders[OURS].parameters)
    frames = []
    for batch, length in shapes or mixer.shapes:
        x, tokens = sequences(batch, length), batch * length
        # each parameter takes part in one multiply-add per token, in two more of the backward
        projections = Work(slots=tokens * parameters)
        able = {key: c for key, c in contenders.items() if batch == 1 or c.batches}
        where = {"part": mixer.part, "name": name, "batch": batch, "length": length}
        runs = {key: forward_call(c, x) for key, c in able.items()}
        work = mixer.work(tokens) + projections
        frames.append(rows(runs, where | {"phase": "forward"}, work, settings, limits))
        runs = {key: training_call(c, x) for key, c in able.items() if c.trains}
        work = mixer.training_work(tokens) + projections + projections + projections
        frames.append(rows(runs, where | {"phase": "training"}, work, settings, limits))
    runs = {key: decoding_call(c) for key, c in contenders.items() if c.decoder}
    where = {"part": mixer.part, "name": name, "batch": 1, "length": CONTEXT, "phase": "decoding"}
    work = Work(slots=parameters, bytes=4 * parameters + contenders[OURS].state_traffic)
    return [*frames, rows(runs, where, work, settings, limits, per=DECODE_STEPS)]


def operator_rows(name, operator: Operator, rivals, settings, limits, shapes) -> list[pd.DataFrame]:
    """Forward and training of one operator, at the given shapes or its own."""
    contenders = {OURS: Contender(operator.ours), **rivals}
    frames = []
    for batch, length in shapes or operator.shapes:
        inputs, tokens = operator.inputs(batch, length), batch * length
        where = {"part": "operator", "name": name, "batch": batch, "length": length}
        runs = {key: forward_call(c, *inputs) for key, c in contenders.items()}
        work = operator.work(tokens)
        frames.append(rows(runs, where | {"phase": "forward"}, work, settings, limits))
        runs = {key: training_call(c, *inputs) for key, c in contenders.items() if c.trains}
        work = operator.training_work(tokens)
        frames.append(rows(runs, where | {"phase": "training"}, work, settings, limits))
    return frames


def rows(runs, where: dict, work: Work, settings: Settings, limits: Limits, per: int = 1):
    """Time the calls, say what came out, return rows; `per` steps make up a call."""
    frame = settings.compare(runs)
    frame[report.SECONDS] /= per
    click.echo(report.line(frame, where, work, limits))
    return report.describe(frame, where, work, limits)


def available(peers) -> dict[str, Contender]:
    """The peers that can run here; says which cannot."""
    found = {}
    for name, make in peers.items():
        try:
            found[name] = make()
        except (ImportError, pytest.skip.Exception) as error:
            click.echo(f"  without {name}: {error}")
    return found


def shape(context, parameter, values) -> list[tuple[int, int]]:
    """BATCHxLENGTH -> numbers."""
    try:
        return [(int(batch), int(length)) for batch, length in (v.split("x") for v in values)]
    except ValueError:
        raise click.BadParameter(f"shapes look like 4x1024, got {values}") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["operators", "mixers", "scaling"]),
    help="What to measure; may be repeated. Everything by default.",
)
@click.option("--only", default="", help="Names, or parts of them; comma-separated.")
@click.option("--shape", "shapes", multiple=True, callback=shape, help="BATCHxLENGTH, repeatable.")
@click.option("--peers/--no-peers", "with_peers", default=True, help="Also run others' code.")
@click.option("--s4", type=click.Path(exists=True, path_type=Path), help="Checkout of s4.")
@click.option("--mega", type=click.Path(exists=True, path_type=Path), help="Checkout of mega.")
@click.option("--repeats", default=7, show_default=True, help="Rounds; contenders alternate.")
@click.option("--busy", is_flag=True, help="Keep samples that other processes disturbed, too.")
@click.option("--max-seconds", default=20.0, show_default=True, help="Longest call of scaling.")
@click.option("--quick", is_flag=True, help="Toy sizes, nothing saved: to try the code.")
@click.option("--directory", type=click.Path(path_type=Path), help="Of the records.")
def main(
    parts, only, shapes, with_peers, s4, mega, repeats, busy, max_seconds, quick, directory
) -> None:
    """Measure every operator and mixer side by side with peers, attention and the roofline."""
    settings = Settings(repeats=repeats, max_foreign_load=None if busy else 0.1)
    if quick:
        settings, shapes = report.QUICK, shapes or [QUICK_SHAPE]
    wanted = [word for word in only.lower().split(",") if word]
    chosen = lambda table: {  # noqa: E731
        name: case
        for name, case in table.items()
        if not wanted or any(word in name.lower() for word in wanted)
    }
    parts = parts or ("operators", "mixers", "scaling")
    directory = directory or (None if quick else results.DIRECTORY)
    limits = Limits.measure(quick)
    click.echo(f"limits of this machine: {limits}")
    click.echo(f"allocator, for all contenders: {environment()['allocator'] or 'as it comes'}")

    start, frames = time.perf_counter(), []
    for part, table, measure in (
        ("operators", OPERATORS, operator_rows),
        ("mixers", mixers(s4, mega), mixer_rows),
    ):
        for name, case in chosen(table).items() if part in parts else ():
            rivals = available(case.peers) if with_peers else {}
            frames += measure(name, case, rivals, settings, limits, shapes)
    if frames and directory:
        save("operators-speed", pd.concat(frames), report.COLUMNS, start, directory, quick)

    if "scaling" in parts:
        start = time.perf_counter()
        layers = {
            name: mixer.ours() for name, mixer in chosen(mixers()).items() if mixer.part == "mixer"
        }
        lengths = QUICK_LENGTHS if quick else scaling.LENGTHS
        frame = scaling.measure(
            layers | {ATTENTION: attention()}, lengths, settings, max_seconds, click.echo
        )
        click.echo("\n".join(scaling.report(frame)))
        if directory:
            save("operators-scaling", frame, scaling.COLUMNS, start, directory, quick)


def save(experiment, frame, columns, start, directory, quick) -> None:
    path = results.save(
        experiment,
        frame.reset_index(drop=True),
        command=shlex.join(["python", "-m", "benchmarks.operators", *sys.argv[1:]]),
        seeds=(SEED,),
        profile="smoke" if quick else "full",
        duration_s=time.perf_counter() - start,
        columns=columns,
        directory=directory,
    )
    click.echo(os.path.relpath(path))


if __name__ == "__main__":
    main()

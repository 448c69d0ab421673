"""Calls spread over a Dask cluster, such that none is lost with a worker.

dask scheduler                                            # on one machine; prints its address
dask worker tcp://host:8786 --nthreads 1 --nworkers 8     # on each machine, from its checkout
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ntlib import dependencies


@dataclass(frozen=True)
class Cluster:
    """The workers of a Dask scheduler: those of now and those that join later."""

    address: str  # of the scheduler, such as tcp://10.0.0.1:8786

    def map(
        self, function: Callable[..., Any], calls: Sequence[tuple]
    ) -> Iterator[tuple[int, Any]]:
        """(number, function(*calls[number])) in the order in which workers finish, each once.

        Calls of a worker that is lost are given to others. Raises what a call raises; ValueError
        from a worker that computes with another ntlib or with several threads; OSError if no
        scheduler answers.
        """
        from distributed import Client, as_completed  # takes seconds, and most need no cluster

        with Client(self.address) as client:
            code = dependencies.of_package()
            numbers = {
                client.submit(_call, code, function, call, pure=False): number
                for number, call in enumerate(calls)
            }
            for future, result in as_completed(list(numbers), with_results=True):
                yield numbers.pop(future), result


def _call(code: str, function: Callable[..., Any], call: tuple) -> Any:
    """On a worker, which must be one that gives the rows of any other."""
    from distributed import get_worker

    threads = get_worker().state.nthreads
    if threads != 1:
        raise ValueError(f"the worker on {platform.node()} has {threads} threads; use --nthreads 1")
    if dependencies.of_package() != code:
        raise ValueError(
            f"the worker on {platform.node()} computes with another ntlib than the caller; "
            "give both the same checkout and start it again"
        )
    return function(*call)

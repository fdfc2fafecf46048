"""Several services at once: each in a thread of its own, after those it depends on."""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING, Any

from orchestrator.services.dependencies import in_order, needed
from orchestrator.services.drivers import load_early

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Mapping

    from orchestrator.services.service import Service


def start_together(
    services: Mapping[str, Service],
    aliases: Collection[str],
    *,
    network: Callable[[], None],
    start: Callable[[str, Callable[[], None]], Service],
    stopping: threading.Event,
) -> Mapping[Service, Service]:
    """Start some of a class's services side by side.

    Args:
        services: All services of the class, by alias.
        aliases: Those to start; the others run already.
        network: Makes their network, meanwhile.
        start: Starts one of them, given its alias and what awaits the network.
        stopping: Set at the first failure, so that the others are not waited for.

    Returns:
        Declaration to handle.

    Raises:
        OrchestratorError: The first failure.
    """
    running: dict[str, futures.Future[Service]] = {}
    with futures.ThreadPoolExecutor(len(aliases) + 2, "orchestrator-start") as pool:
        networking = pool.submit(network)
        # Importing takes a tenth of a second each, in which the containers start anyway.
        pool.submit(load_early, [m for alias in aliases for m in services[alias].client_modules])

        def run(alias: str) -> Service:
            for other in needed(alias, services):
                if other in running:
                    running[other].result()
            return start(alias, networking.result)

        try:
            for alias in in_order(services):
                if alias in aliases:
                    running[alias] = pool.submit(run, alias)
            steps: list[futures.Future[Any]] = [networking, *running.values()]
            done, _ = futures.wait(steps, return_when=futures.FIRST_EXCEPTION)
            for step in steps:
                if step in done:
                    step.result()
        except BaseException:
            stopping.set()
            raise
    return {services[alias]: future.result() for alias, future in running.items()}

"""A server's data in memory: it starts and clones in a fraction of the time that a disk takes.

But memory is emptied when the container stops. So the server finds its data through a link. Before
a test stops it, the data are copied to the disk, and then the link leads there: what was committed
is there when the server starts again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.runtime import Handle

_FOLDER: Final = "/orchestrator"
DATA: Final = f"{_FOLDER}/data"
MEMORY: Final = f"{_FOLDER}/memory"
_SAVED: Final = f"{_FOLDER}/saved"
_USER: Final = "postgres"  # in every image of the family
# The server's processes stop, so that what is copied is what a crash at this moment leaves: it
# recovers from its log as from any crash. kill(2): -1 spares the caller and the first process.
_SAVE: Final = f"rm -rf {_SAVED}; kill -STOP -1; cp -a {MEMORY} {_SAVED}; copied=$?"
_AND_END: Final = "[ $copied = 0 ] || kill -CONT -1; exit $copied"
_AND_GO_ON: Final = "kill -CONT -1; exit $copied"
_GONE: Final = (
    "{} ended by itself, and with it went its data, which were in memory. End the server with "
    "kill(), or declare durable=True, which keeps them on the disk."
)


@dataclass(eq=False)
class Storage:
    """Where the data of one server are.

    Attributes:
        on_disk: Whether they outlive the server's end.
    """

    on_disk: bool

    @contextlib.contextmanager
    def saving(self, service: Handle, *, crash: bool) -> Iterator[None]:
        """Stop the server in the block; what it had committed before is on the disk then.

        That is done from within the container, so that a partition does not matter.

        Args:
            service: The class's or the test's handle.
            crash: Whether it is killed, and does nothing more.

        Raises:
            ServiceError: The data are gone, as the server ended by itself; or cannot be copied.
        """
        if self.on_disk:
            yield
            return
        engine, container = service.running.engine, service.running.container
        state = service.state()
        if state is None or state.ended:
            raise ServiceError(_GONE.format(service.alias), service=service.alias)
        if state.status == "paused":
            engine.unpause_container(container)
        script = f"{_SAVE}; {_AND_END if crash else _AND_GO_ON}"
        done = engine.exec(container, ["sh", "-c", script], user=_USER)
        if done.exit_code != 0:
            raise ServiceError(
                f"{service.alias}: its data cannot be copied to the disk before it stops: "
                f"{done.output.strip()}",
                service=service.alias,
            )
        yield
        engine.put_files(container, {}, links={DATA: _SAVED})
        self.on_disk = True

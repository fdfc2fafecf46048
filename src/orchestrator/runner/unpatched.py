"""What a worker uses of the standard library while tests run, taken before it imports any.

Tests replace names in modules: ``mock.patch("os.getpid")``, freezegun, gevent. What stands here is
out of their reach: functions are held themselves, and JSON by a copy of its modules that nobody
else has. So the worker's side of `channel`, `messages`, `result`, `suite` and `worker` takes from
here whatever it calls from the first test to the last.
"""

from __future__ import annotations

import importlib.util
import os
import select
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


def _copy_of(module: str) -> Any:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.loader is None:
        raise ImportError(module)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


# freezegun looks through every module for the clocks themselves: a partial is none
now: Final[Callable[[], float]] = partial(time.perf_counter)
# ASCII only; a dataclass becomes an object of its fields
to_json: Final[Callable[[object], str]] = (
    _copy_of("json.encoder").JSONEncoder(separators=(",", ":"), default=vars).encode
)
from_json: Final[Callable[[str], Any]] = _copy_of("json.decoder").JSONDecoder().decode
close: Final = os.close
exc_info: Final = sys.exc_info
exit_at_once: Final = os._exit
fstat: Final = os.fstat
getpid: Final = os.getpid
read: Final = os.read
select_: Final = select.select
write: Final = os.write

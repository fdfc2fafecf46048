"""An owner: the process that the cases kill. ``python -m tests.faults.owner ENDING OPTIONS``.

It owns a session, creates a network and some containers, says so on stdout (JSON lines), and then
ends in the way asked for. What needs no code of its own (signals from outside) is ``wait``.
"""

import contextlib
import ctypes
import dataclasses
import io
import json
import os
import signal
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import docker

import orchestrator.sessions.session as session_module
from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import ContainerSpec, Label
from orchestrator.environment.context import create_private_network
from orchestrator.errors import OrchestratorError
from orchestrator.sessions import Session, own_session
from orchestrator.sessions.identity import Identity, this_process
from orchestrator.settings import SUBNETS, Settings
from tests.support.tiny_images import tar_of

_LONG: Final = 3600


class Owner:
    """What an ending has at hand."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.settings = Settings.from_environment()
        self.endpoint = find_endpoint()
        self.engine = connect(self.settings, endpoint=self.endpoint)
        self.network = ""

    def session(self) -> Session:
        """The session of the calling process."""
        return own_session(self.engine, settings=self.settings)

    def fill(self) -> None:
        """Create a network and the containers on it, side by side, and start them."""
        self.network = self.create_network()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.start_container, range(self.options["containers"])))
        if self.options.get("build"):
            self.build_image()

    def create_network(self) -> str:
        """Create one network."""
        session = self.session()
        name = session.name("net")
        with session.creating("network", name):
            return create_private_network(
                self.engine, name, labels=session.labels(test_class="Fault"), pool=SUBNETS
            )

    def create_container(self, number: int = 0) -> str:
        """Create one container."""
        session = self.session()
        name = session.name(f"service{number}")
        spec = ContainerSpec(
            name=name,
            image=self.options["image"],
            labels=session.labels(test_class="Fault", service=f"service{number}", scope="class"),
            network=self.network or None,
        )
        with session.creating("container", name):
            return self.engine.create_container(spec)

    def start_container(self, number: int = 0) -> str:
        """Create one container and start it."""
        container = self.create_container(number)
        self.engine.start_container(container)
        return container

    def build_image(self) -> None:
        """Build an image."""
        session = self.session()
        name = f"orchestrator/built:{uuid.uuid4().hex[:24]}-{session.id[:8]}"
        recipe = f"FROM {self.options['image']}\nENV BUILT=1\n".encode()
        context = io.BytesIO(tar_of([("Dockerfile", recipe)]))
        with session.creating("image", name):
            steps = self.engine.images.build(
                context,
                name=name,
                dockerfile="Dockerfile",
                args={},
                target=None,
                labels=session.labels(scope="process"),
            )
            list(steps)

    def say(self, word: str, **values: object) -> None:
        """Tell the test how far this is."""
        print(json.dumps({"word": word, "pid": os.getpid(), **values}), flush=True)

    def ready(self, **values: object) -> None:
        """Everything is created; wait for the test's go-ahead on stdin."""
        self.say("ready", session=self.session().id, **values)
        sys.stdin.readline()


def wait(owner: Owner) -> None:
    """Be killed from outside."""
    owner.fill()
    owner.say("ready", session=owner.session().id)
    time.sleep(_LONG)


def begin(owner: Owner) -> None:
    """Be killed from outside at any moment of the start, the run or the end."""
    owner.say("begin", session=owner.session().id)
    owner.fill()
    owner.say("ready")
    time.sleep(owner.options.get("seconds", 0))


def normal(owner: Owner) -> None:
    """End normally."""
    owner.fill()
    owner.ready()


def execv_again(owner: Owner) -> None:
    """Become another owner, with the same pid and start time."""
    normal(owner)
    argv = [sys.executable, "-m", "tests.faults.owner", "wait", json.dumps(owner.options)]
    os.execv(sys.executable, argv)  # noqa: S606  # exec is the point


def fork_exits(owner: Owner) -> None:
    """Fork children that end by sys.exit and by terminate(), at once too, and go on."""
    import multiprocessing  # here, as asyncio below: every other owner starts the sooner

    owner.fill()
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    statuses = set()
    for _ in range(20):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(_LONG,))
        child.start()
        child.terminate()
        child.join()
        statuses.add(child.exitcode)
    owner.ready(statuses=list(statuses))


def fork_in_c_stays(owner: Owner) -> None:
    """Leave a child behind that was forked behind Python's back, and holds every descriptor."""
    owner.fill()
    libc = ctypes.PyDLL(None)
    child = libc.fork()
    if child == 0:
        libc.sleep(_LONG)
        libc._exit(0)
    owner.ready(child=child)
    time.sleep(_LONG)


def fork_owns(owner: Owner) -> None:
    """A forked child owns a session of its own."""
    owner.fill()
    child = os.fork()
    if child == 0:
        owner.engine = connect(owner.settings, endpoint=owner.endpoint)
        owner.fill()
        owner.ready(child=os.getpid())
        time.sleep(_LONG)
    owner.say("parent", session=owner.session().id)
    os.waitpid(child, 0)
    time.sleep(_LONG)


def create_for_ever(owner: Owner) -> None:
    """Many threads create; the main thread ends meanwhile."""
    owner.network = owner.create_network()

    def create(number: int) -> None:
        with contextlib.suppress(OrchestratorError):
            while True:
                owner.create_container(number)

    for number in range(8):
        threading.Thread(target=create, args=(number,), daemon=True).start()
    owner.ready()


def create_slowly(owner: Owner) -> None:
    """Create while the daemon takes its time."""
    owner.say("ready", session=owner.session().id)
    owner.start_container()


def refuse_after_end(owner: Owner) -> None:
    """Try to create in an exit handler that runs after ours."""
    normal(owner)
    from orchestrator.sessions.process_sessions import _at_exit

    _at_exit()
    try:
        owner.create_container()
    except OrchestratorError as refusal:
        owner.say("refused", message=str(refusal))


def handled(owner: Owner) -> None:
    """The program handles SIGTERM itself, and ends with a status of its own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    wait(owner)


def goes_on(owner: Owner) -> None:
    """The program takes SIGTERM as a message, ignores SIGHUP, and goes on using its services."""
    signal.signal(signal.SIGTERM, lambda *_: owner.say("noted"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    normal(owner)


def after_asyncio(owner: Owner) -> None:
    """An event loop had SIGTERM, and reset it to the default when it ended."""
    import asyncio

    owner.session()

    async def loop() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)

    asyncio.run(loop())
    wait(owner)


def closed_output(owner: Owner) -> None:
    """Nobody reads stdout and stderr any more."""
    normal(owner)
    os.close(1)
    os.close(2)


def again(owner: Owner) -> None:
    """Create once more after the test's word."""
    normal(owner)
    owner.start_container(9)
    owner.say("created")
    sys.stdin.readline()


def things(owner: Owner) -> None:
    """All that can be in the way: volumes, a paused container, a restart policy, an image."""
    owner.fill()
    session = owner.session()
    client = docker.APIClient(base_url=owner.endpoint.url, version="auto")
    marks = session.labels(test_class="Fault")
    volume = session.name("volume")
    with session.creating("volume", volume):
        client.create_volume(volume, labels={**marks, Label.NAME: volume})
    for hint in ("uses-volume", "paused", "restarts"):
        name = session.name(hint)
        policy = {"Name": "always"} if hint == "restarts" else None
        config = client.create_host_config(binds=[f"{volume}:/named"], restart_policy=policy)
        labels = {**marks, Label.NAME: name}
        with session.creating("container", name):
            client.create_container(
                owner.options["image"], name=name, labels=labels, host_config=config
            )
        client.start(name)
        if hint == "paused":
            client.pause(name)
    client.close()
    owner.build_image()
    owner.ready()
    time.sleep(_LONG)


def main() -> None:
    """Run one ending."""
    ending = globals()[sys.argv[1]]
    options = json.loads(sys.argv[2])
    if not options["judged"]:
        session_module.this_process = _stranger  # type: ignore[attr-defined]
    ending(Owner(options))


def _stranger() -> Identity:
    """This process as one of another machine: no sweep but its own layers may clean up after it."""
    return dataclasses.replace(this_process(), boot=str(uuid.uuid4()), host=f"{uuid.uuid4()}/")


if __name__ == "__main__":
    main()

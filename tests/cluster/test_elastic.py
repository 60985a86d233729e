"""Training over ssh on three hosts that fail, leave and come back: each event once, in few runs."""

import contextlib
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from launch.process import state
from tests.integration.elastic import DIGITS, Story, results, shown

pytestmark = pytest.mark.timeout(1200)
WAIT_S, SLOW_MS, EPOCHS = 240.0, 700, 18
STEPS = EPOCHS * 11
LIMITS = ["--heartbeat-s", "3"]
OPTIONS = ["--epochs", str(EPOCHS), "--commit-every-steps", "2", "--step-timeout-s", "5", "--json"]


class Run:
    """A run whose supervisor is on h1, with a rank on each host in the hostfile."""

    def __init__(self, hosts, folder, pool):
        self.hosts, self.story, self._folder, self._pool = (
            hosts,
            Story(folder / "notes"),
            folder,
            pool,
        )
        self._launched: Future | None = None
        self.hostfile = folder / "hostfile"
        self.use("h1", "h2", "h3")
        self.story.slow(SLOW_MS)

    def use(self, *names):
        """Write the hostfile."""
        new = self._folder / "hostfile.new"
        new.write_text("".join(f"{name} slots=1\n" for name in names))
        new.rename(self.hostfile)

    def start(self, *options):
        self._launched = self._pool.submit(
            self.hosts.launch, "--hostfile", str(self.hostfile), *LIMITS, *DIGITS, *OPTIONS,
            "--run-dir", str(self._folder / "run"), *options,
            timeout_s=400, **self.story.environ,
        )  # fmt: skip
        self.comes(3)

    def waits_for(self, condition):
        until = time.monotonic() + WAIT_S
        while not condition():
            assert not self._launched.done(), self._launched.result().all
            assert time.monotonic() < until, "it does not come"
            time.sleep(0.05)

    def comes(self, size):
        """Wait for a world of this size, and a step of it."""
        self.waits_for(lambda: self.story.trains(size))

    def on(self, name):
        """The rank on a host."""
        (member,) = [member for member in self.story.members() if member.host == name]
        return member

    @contextlib.contextmanager
    def loses(self, *members):
        """A block that makes the others go on without these ranks, which is waited for."""
        now = time.monotonic()
        yield
        self.waits_for(lambda: self.story.goes_on([member.pid for member in members], now))

    def kills(self, *members, by=signal.SIGKILL):
        """Send a signal to ranks; the others go on."""
        with self.loses(*members):
            for member in members:
                os.kill(member.pid, by)

    def end(self):
        """Let it come to its end."""
        self.story.slow(0)
        done = self._launched.result()
        assert done.code == 0, done.all
        said = results(done.out)
        assert len(said) == 1 and said[0]["step"] == STEPS, done.all
        return done

    def text(self):
        return self._launched.result().all if self._launched else ""

    def kill(self):
        """Leave nothing."""
        for name in self.hosts.network.names:
            for pid in self.hosts.running(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run(hosts, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        run = Run(hosts, tmp_path, pool)
        try:
            yield run
        finally:
            run.kill()


@contextlib.contextmanager
def explained(run):
    """A block whose failure ends the run and shows all of it."""

    def text():
        run.kill()
        return run.text()

    with shown(run.story, text):
        yield
        print(run.story)


def test_every_kind_of_failure_is_recovered_from(run, hosts):
    with explained(run):
        run.start()
        run.kills(run.on("h3"))
        with run.loses(run.on("h2")):
            run.story.hang(run.on("h2").rank)
        run.comes(3)
        run.kills(*run.story.members()[:2])  # rank 0 too
        run.comes(3)
        cut = run.on("h3")
        with hosts.network.cut_off("h3"):
            with run.loses(cut):
                pass
            assert state(cut.pid) in ("", "Z")  # it has fenced itself
            with run.loses(run.on("h2")):
                os.kill(run.on("h2").agent, signal.SIGKILL)
        run.comes(3)
        done = run.end()
        assert run.story.problems(EPOCHS) == []
        assert "restarting" not in done.err and "no progress for 5 s in callbacks" in done.err
        assert "no word from its host" in done.err and "killed by SIGKILL" in done.err, done.err
        assert hosts.left_behind() == []


def test_hosts_come_and_go_and_a_killed_supervisor_takes_its_ranks_along(run, hosts):
    with explained(run):
        run.start()
        with run.loses(run.on("h3")):
            run.use("h1", "h2")
        run.kills(run.on("h2"), by=signal.SIGSTOP)
        run.use("h1", "h2", "h3")
        run.comes(3)
        run.kills(run.on("h2"), by=signal.SIGTERM)
        (supervisor,) = hosts.processes("h1", "launch.start")
        os.kill(supervisor, signal.SIGKILL)
        text = run.text()
        assert "h3 leaves\n" in text and "h2 leaves, after a signal to rank " in text, text
        assert "its process is stopped" in text, text
        assert hosts.left_behind() == []
        run.start("--resume")
        run.end()
        assert run.story.problems(EPOCHS) == []
        assert hosts.left_behind() == []

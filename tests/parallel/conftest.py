"""Every rank of one `horovodrun` runs the same pytest over this folder, in the same order.

Started by tests/integration/test_parallel_suite.py; without a launcher nothing here is collected.
A test that fails on one rank ends the run on all of them.
"""

import io

import pytest
from PIL import Image

from app.distributed.launcher import read_launcher
from app.light_imports import hide_from_keras

hide_from_keras()
RANKS = read_launcher().size
if RANKS == 1:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def world():
    from app.distributed import devices
    from app.distributed.horovod_world import connect

    world = connect(by_host=RANKS > 2)  # for process sets
    devices.configure(world)
    return world


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take as long as a short training; tests/single draws them."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    monkeypatch.setattr("app.evaluation.figures.to_png", lambda figure: file.getvalue())


@pytest.fixture
def pair(world):
    """A process set of ranks 0 and 1, where these are not all ranks."""
    if RANKS < 3:
        pytest.skip("a proper subset of two ranks needs at least three")
    return world.process_set([0, 1])


@pytest.fixture(scope="session")
def place(world, tmp_path_factory):
    """The chief's directory of sources, on every rank; the cache of indices is in it too."""
    place = world.broadcast(tmp_path_factory.mktemp("sources"))
    if world.is_chief:
        from tests.parallel.sources import write_sources

        write_sources(place)
    world.barrier()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        yield place


@pytest.fixture
def directory(world, tmp_path):
    """The chief's temporary directory, on every rank."""
    return world.broadcast(tmp_path)


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed_here = outcome.get_result().failed


@pytest.fixture(autouse=True)
def agree_on_the_outcome(world, request):
    """No rank goes on to the next test if this one failed anywhere."""
    world.barrier()
    yield
    failed = world.gather(getattr(request.node, "failed_here", True))
    if any(failed) and not failed[world.rank]:
        pytest.exit(
            f"{request.node.name} failed on ranks {[r for r, f in enumerate(failed) if f]}", 1
        )

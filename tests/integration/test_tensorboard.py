"""TensorBoard started on real runs of both tasks and opened in headless Chromium."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.launching import BIN, run

pytestmark = pytest.mark.full_matrix
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1600,1100"
)
# The text of a page, of what its components hide in their shadow roots too.
TEXT = """
const words = [];
const visit = (node) => {
  if (node.nodeType === Node.TEXT_NODE) words.push(node.textContent);
  if (node.shadowRoot) visit(node.shadowRoot);
  for (const child of node.childNodes || []) visit(child);
};
visit(document.body);
return words.join(' ');
"""
# Words to be found behind each address.
SHOWN = {
    "timeseries": ["health", "learning", "speed", "timeline", "images/tensorboard/train"],
    "custom_scalars": ["Is it learning?", "Is it fast?", "Is it healthy?"],
    "images&tagFilter=report": ["report/confusion", "report/images_most_confidently_mistaken"],
    "images&tagFilter=samples|speed": ["samples/as_the_model_sees", "speed/work_of_each_rank"],
    "text&tagFilter=report": ["weighted average", "networking and web"],
    "text&tagFilter=config|timeline": ["learning_rate", "timeline_texts/resumed"],
    "text&tagFilter=samples": ["class", " · "],
    "hparams": ["world_size", "learning_rate", "test accuracy"],
    "graphs": ["images/tensorboard/train", "Main Graph"],
    "histograms&tagFilter=weights": ["weights/logits/kernel"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of images, resumed once, and one of texts, on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["launch/local.sh", "-n", "2", "train", "--log-every-steps", "5", "--recipe"]
    images = ["launch/recipes/digits.toml", "--histograms", "true", "--flip", "horizontal"]
    images += ["--run-dir", str(folder / "images")]
    texts = ["launch/recipes/pydocs.toml", "--epochs", "1", "--run-dir", str(folder / "texts")]
    for arguments in (
        [*images, "--epochs", "2"],
        [*images, "--epochs", "3", "--resume"],
        texts,
    ):
        done = run([*common, *arguments], timeout_s=240)
        assert done.code == 0, done.all
    return folder


@contextlib.contextmanager
def serving(runs: Path, log: Path, *flags: str) -> Iterator[str]:
    """Where a TensorBoard that shows the runs listens."""
    command = [str(BIN / "tensorboard"), "--logdir", str(runs), "--port", "0", *flags]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 180
        while not (found := re.search(r"http://localhost:\d+/", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield found[0]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def address(runs: Path, tmp_path_factory) -> Iterator[str]:
    with serving(runs, tmp_path_factory.mktemp("log") / "tensorboard.txt") as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tab", SHOWN)
def test_a_tab_shows_what_the_runs_wrote_without_an_error(tab: str, address: str, browser) -> None:
    browser.get_log("browser")
    browser.get(f"{address}#{tab}")
    browser.refresh()
    deadline = time.monotonic() + 120
    while missing := [word for word in SHOWN[tab] if word not in browser.execute_script(TEXT)]:
        assert time.monotonic() < deadline, f"{missing} not shown at #{tab}"
        time.sleep(0.5)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loader", ["--load_fast=true", "--load_fast=false"])
def test_a_resumed_run_has_each_point_once(loader: str, runs: Path, tmp_path: Path) -> None:
    with serving(runs, tmp_path / "tensorboard.txt", loader) as address:

        def ask(what: str, **keys: str) -> Any:
            query = urllib.parse.urlencode(keys)
            url = f"{address}data/plugin/scalars/{what}?{query}"
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)

        deadline = time.monotonic() + 120
        name = "images/tensorboard/train"
        while "timeline/finished" not in (tags := ask("tags").get(name, {})):
            assert time.monotonic() < deadline, tags
            time.sleep(0.5)
        steps = {tag: [step for _, step, _ in ask("scalars", run=name, tag=tag)] for tag in tags}
    assert steps["learning/loss"] == list(range(5, 64, 5))  # 21 steps in each of 3 epochs
    assert steps["learning_by_epoch/loss"] == [1, 2, 3]
    assert steps["timeline/resumed"] == [42] and steps["timeline/finished"] == [63]
    assert [tag for tag, found in steps.items() if found != sorted(found)] == []

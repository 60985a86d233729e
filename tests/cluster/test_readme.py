"""Every command block of launch/README.md is run, as far as it goes without a cluster or hosts.

kubectl is the real one: it builds what is applied, and reads all options before it finds that no
API server is there. docker only takes its words. What would start ranks is read by its own parser.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster.manifests import K8S, everything, pods, why_no_kubectl
from tests.integration.launching import ROOT

pytestmark = pytest.mark.skipif(bool(why_no_kubectl()), reason=why_no_kubectl())
README = (ROOT / "launch" / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
DIGEST = f"sha256:{'a' * 64}"
KUBECTL = """\
#!/bin/bash
complain() {{ printf 'kubectl %s: %s\\n' "$*" "$(cat "$HOME/told")" >>"$HOME/complaints"; exit 1; }}
case "$1 $2" in
  kustomize*) exec {kubectl} "$@" ;;
  "apply -k" | "delete -k") {kubectl} kustomize "$3" >/dev/null 2>"$HOME/told" || complain "$@" ;;
  "config set-context") {kubectl} "$@" 2>"$HOME/told" || complain "$@"; exit ;;
  "create namespace") {kubectl} "$@" --dry-run=client 2>"$HOME/told" || complain "$@"; exit ;;
esac
{kubectl} --server http://127.0.0.1:9 "$@" >/dev/null 2>"$HOME/told"
grep -qi refused "$HOME/told" || complain "$@"
"""
DOCKER = f"""\
#!/bin/bash
case "$1" in
  build) grep -q "^FROM .* AS $3\\$" {ROOT}/Dockerfile ;;
  inspect) echo "REGISTRY/lockstep@{DIGEST}" ;;
  run)
    while [[ $1 != lockstep:* ]]; do shift; done
    shift; [[ $1 == launch/local.sh ]]; "$@" ;;
esac || {{ echo "docker $*" >>"$HOME/complaints"; exit 1; }}
"""
LAUNCH = """\
#!/bin/bash
parse='import sys; from launch.{module} import parse; parse({first}sys.argv[1:])'
{python} -c "$parse" "$@" 2>"$HOME/told" ||
  {{ printf '{kind}.sh %s: %s\\n' "$*" "$(cat "$HOME/told")" >>"$HOME/complaints"; exit 1; }}
"""
PYTHON = """\
#!/bin/bash
[[ "$1 $2" == "-m app" ]] || exit 1
shift 2
parse='import sys; from app.commands.command_line import parse; parse(sys.argv[1:])'
{python} -c "$parse" "$@" 2>"$HOME/told" ||
  {{ printf 'app %s: %s\\n' "$*" "$(cat "$HOME/told")" >>"$HOME/complaints"; exit 1; }}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's copy of launch/, with our commands first on the path."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(K8S, home / "launch" / "k8s")
    shutil.copy(ROOT / "launch" / "manifests.py", home / "launch")
    (home / "photos").mkdir()
    (home / "mpi-operator.yaml").write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n"
    )
    words = {"kubectl": shutil.which("kubectl"), "python": sys.executable}
    of_ranks, served = {"module": "start"}, {"module": "cluster", "first": ""}
    for path, text in (
        ("bin/kubectl", KUBECTL.format(**words)),
        ("bin/docker", DOCKER),
        ("bin/python", PYTHON.format(**words)),
        *(
            (
                f"launch/{kind}.sh",
                LAUNCH.format(kind=kind, first=f'"{kind}", ', **of_ranks, **words),
            )
            for kind in ("local", "hosts")
        ),
        (
            "launch/parameter_servers.sh",
            LAUNCH.format(kind="parameter_servers", **served, **words),
        ),
    ):
        (home / path).parent.mkdir(exist_ok=True)
        (home / path).write_text(text)
        (home / path).chmod(0o755)
    context = {"name": "here", "context": {"cluster": "", "user": ""}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "contexts": [context],
        "current-context": "here",
    }
    (home / "kubeconfig").write_text(yaml.safe_dump(config))
    return home


@pytest.mark.parametrize("block", BLOCKS, ids=lambda text: text.strip().splitlines()[0][:50])
def test_every_command_block_of_the_readme_runs(block: str, home: Path) -> None:
    complaints = home / "complaints"
    complaints.write_text("")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        env={
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "HOME": str(home),
            "KUBECONFIG": str(home / "kubeconfig"),
            "PYTHONPATH": str(ROOT),
            "LOCKSTEP_VENV": sys.prefix,
        },
    )
    assert complaints.read_text() == ""
    assert done.returncode == 0, done.stdout + done.stderr
    if "sed -i" in block:
        images = {
            one["image"]
            for pod in pods(everything(home / "launch/k8s/overlays/gpu")).values()
            for one in pod["spec"]["containers"]
        }
        assert images == {f"REGISTRY/lockstep@{DIGEST}"}
        assert "namespace: lockstep" in (home / "kubeconfig").read_text()


def test_the_readme_names_no_job_or_folder_that_there_is_not() -> None:
    for folder in re.findall(r"launch/k8s/[\w/.]+", README):
        assert (ROOT / folder.rstrip(".")).exists(), folder
    assert not re.findall(r"lockstep-(?:launcher|worker)", README)

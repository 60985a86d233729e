import subprocess
import sys

# In a process of its own: here Keras is there already.
SCRIPT = """
import sys
from app.light_imports import hide_from_keras

hide_from_keras()
hide_from_keras()  # a second time changes nothing
import app.train

print([name for name in ("sklearn", "matplotlib", "scipy.stats") if name in sys.modules])
import sklearn.metrics, matplotlib.figure
print(sklearn.metrics.accuracy_score([1, 0], [1, 1]))
"""


def test_training_imports_neither_scikit_learn_nor_matplotlib_and_both_can_be_had_later():
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["[]", "0.5"], done.stderr

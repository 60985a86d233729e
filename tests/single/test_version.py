"""Which code computes."""

import keras

from app.version import code_version


def test_the_code_version_names_our_sources_and_the_packages() -> None:
    version = code_version()
    assert len(version["code"]) == 16
    assert version["keras"] == keras.__version__

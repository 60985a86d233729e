"""Shows the values in a failed assert of what the tests of data share."""

import pytest

for module in ("field_folders", "field_pictures", "field_tables", "reading"):
    pytest.register_assert_rewrite(f"tests.single.data.{module}")

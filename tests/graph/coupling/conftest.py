"""The helpers of these tests assert like the tests themselves."""

import pytest

pytest.register_assert_rewrite("coupling_law")

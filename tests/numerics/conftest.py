"""Settings of the property tests in this folder."""

from __future__ import annotations

from hypothesis import settings

# A busy machine makes single examples slow; pytest's own timeout ends what hangs.
settings.register_profile("numerics", deadline=None)
settings.load_profile("numerics")

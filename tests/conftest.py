"""For all tests: no property has to be found within a time, since machines are slow at times."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

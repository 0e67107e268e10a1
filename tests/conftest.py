"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("here", deadline=None)  # two tests run at a time, beside whatever else the machine does
settings.load_profile("here")

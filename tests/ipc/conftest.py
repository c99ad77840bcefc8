"""The same examples in every run, and no time limit on one: a busy machine must not fail a test."""

import hypothesis

hypothesis.settings.register_profile("same-every-time", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same-every-time")

"""What all tests share."""

import signal

from hypothesis import settings

# A shell that runs a job in the background has it ignore Ctrl-C, and so would every program that is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy this machine is, and nothing of what is tested.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

"""What all tests share."""

import signal

# A shell that runs a job in the background has it ignore Ctrl-C, and so would every program that is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

"""Work in a child process, which gives its memory back to the system when it ends."""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from osbuild.agent.errors import Problem


def run_in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Return the JSON object that `work` returns in a child process; None if it has failed, which is printed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_and_exit(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return None if status else dict(json.loads(answer))


def _run_and_exit(work: Callable[[], dict[str, Any]], writing: int) -> None:
    """Run `work` and end this process, without what its parent would do at its end."""
    status = 1
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(work()).encode())
        status = 0
    except Problem as problem:
        print(*problem.lines(), sep="\n", file=sys.stderr)
    except OSError as error:
        print(f"edge-agent: {error}", file=sys.stderr)
    except KeyboardInterrupt:  # the parent has the same signal, and says nothing either
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)

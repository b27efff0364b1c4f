"""`edge-osbuild fleet` as its users run it."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from osbuild.cli import cli
from osbuild.shared.errors import Error
from tests.support.update_server import RunningServer

ATTEMPTS = 4  # at a completion


class CommandLine:
    """`edge-osbuild` of one user, who has logged in."""

    def __init__(self, server: RunningServer, home: Path, token: str = "") -> None:
        self.environ = {**os.environ, "XDG_CONFIG_HOME": str(home), "FLEET_TOKEN": token or server.token}
        self.run("fleet", "login", server.url, "--ca", f"{server.data}/tls/server-ca.crt", "--token", "env:FLEET_TOKEN")

    def run(self, *arguments: str | Path, status: int = 0) -> str:
        command = [sys.executable, "-m", "osbuild", *map(str, arguments)]
        result = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout if status == 0 else result.stderr

    def call(self, *arguments: str | Path, status: int = 0) -> str:
        """Like `run`, but in this process, which takes a tenth of the processor time."""
        runner = CliRunner(env=self.environ)
        result = runner.invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)
        if isinstance(result.exception, Error):
            assert result.exception.status == status, result.exception
            return f"{result.exception} {result.exception.hint}"
        assert result.exception is None and status == 0, result.output
        return result.stdout

    def complete(self, line: str, **environ: str) -> list[str]:
        """Return what bash offers after `line`. Nothing may be printed on standard error.

        It offers nothing if the server does not answer within 2 s, as on a busy machine: then it is asked again.
        """
        words = line.split(" ")
        command = [sys.executable, "-m", "osbuild"]
        variables = {"_EDGE_OSBUILD_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        environment = {**self.environ, **variables, **environ}
        for _ in range(ATTEMPTS):
            result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert result.stderr == ""
            if items := [item.partition(",")[2] for item in result.stdout.splitlines() if item]:
                return items
        return []

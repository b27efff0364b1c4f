"""The type of profiles on the command line, for all commands."""

from typing import Any

import click

from osbuild.config.load import shipped_profiles


class ProfileName(click.ParamType[str]):
    """The name of a shipped profile, or the path of a file. `osbuild.config.load.find_profile` reads it."""

    name = "profile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"Write the path of your own profile, or one of: {', '.join(shipped_profiles())}"


PROFILE = ProfileName()

"""Commands that have subcommands, one of which need not be named."""

from typing import Any, ClassVar

from typer.core import TyperGroup


class BenchCommands(TyperGroup):
    """`bench MODEL` is `bench speed MODEL`."""

    default: ClassVar[str] = "speed"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

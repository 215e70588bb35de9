"""What is started on a slice: a `jaxmodels` command, with what its process needs."""

import re
import shlex
from dataclasses import dataclass

from jaxmodels.checks import shown
from jaxmodels.tpu_configs.slices import Slice

# What Google Cloud and Kubernetes take as a name.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command on a slice.

    Attributes:
        slice: where it runs.
        command: the words behind `jaxmodels`, "generate" first for instance.
        name: of the machine, workload or task; in lower case, as Google Cloud asks for.

    Raises:
        ValueError: no command, or a name that Google Cloud does not take.
    """

    slice: Slice
    command: tuple[str, ...]
    name: str = "jaxmodels"

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError(
                "launch: no command; give one behind --, as in: -- generate MODEL --mesh tensor=8"
            )
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"launch: name {shown(self.name)} must be of lower case letters, digits and hyphens, begin "
                "with a letter and have at most 40 characters"
            )

    @property
    def environment(self) -> dict[str, str]:
        """Variables of each process: compiler flags, and that hosts find each other where there are more."""
        flags = {"LIBTPU_INIT_ARGS": " ".join(self.slice.xla_flags)} if self.slice.xla_flags else {}
        return flags | ({"JAXMODELS_HOSTS": "auto"} if self.slice.hosts > 1 else {})

    @property
    def exports(self) -> str:
        """Shell lines that set these variables."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())

    @property
    def line(self) -> str:
        """The command as a shell line."""
        return shlex.join(("jaxmodels", *self.command))

    @property
    def install(self) -> str:
        """The shell line that installs what the command needs."""
        return 'python3 -m pip install --quiet "jaxmodels[tpu]"'

    @property
    def on_host(self) -> str:
        """Shell lines that install and start the command on a host."""
        return f"set -e\n{self.install}\n{self.exports}{self.line}\n"

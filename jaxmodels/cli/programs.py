"""Where `jaxmodels generate` has its programs from: a directory of compiled ones, those that earlier calls
kept, or the model, which is traced."""

from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmodels.artefacts import compilation_cache

if TYPE_CHECKING:
    from jaxmodels import Model


@dataclass(frozen=True)
class Programs:
    """The programs of one command.

    Attributes:
        compiled: the directory that --compiled names, None where it is not given.
        words: what the command asks for; one that asks for the same needs the same programs.
        whole: whether the generation is one program, or else a prefill and steps.
        spread: whether the model is spread over devices or memories; programs for those are not kept.
    """

    compiled: Path | None
    words: str
    _: KW_ONLY
    whole: bool
    spread: bool

    @property
    def kept(self) -> Path | None:
        """Where programs are kept from call to call, if they are."""
        return None if self.compiled or self.spread else compilation_cache.kept_place()

    def begin_reading(self, text: str) -> None:
        """Begins to read the programs that a prompt will probably need, before weights and layers are."""
        from jaxmodels.artefacts.ahead import begin_compiled, begin_kept

        if self.compiled is not None:
            needed = ("generate",) if self.whole else ("prefill", "decode")
            begin_compiled(self.compiled, needed, len(text.encode()))
        elif self.kept is not None:
            begin_kept(self.kept, self.words)

    def given_to(self, model: "Model") -> "Model":
        """The model with these programs in place of those that it would trace.

        Raises:
            ArtefactError: the compiled ones are for something else.
        """
        if self.compiled is not None:
            from jaxmodels.artefacts.compiled import with_programs

            return with_programs(model, self.compiled)
        if self.kept is not None:
            from jaxmodels.artefacts.kept import kept_runner

            return replace(model, runner=kept_runner(self.kept))
        return model

    def note(self, model: "Model") -> None:
        """Notes which programs the command used, for the next call of the same."""
        if self.kept is not None:
            from jaxmodels.artefacts.kept import KeptRunner

            assert isinstance(model.runner, KeptRunner)
            model.runner.note(self.words)

"""Every example runs and prints something, and the README's Python works as it stands."""

import re
import runpy
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxmodels import decoding
from jaxmodels.decoding import acceptance, drafters, lengths, masked
from jaxmodels.decoding.diffusion import guidance
from jaxmodels.image_models.cache_names import CACHES
from jaxmodels.image_models.pipelines import PIPELINES
from jaxmodels.image_models.sampler_names import SAMPLERS

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.sweep
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_the_readmes_python_runs_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names = {"tokens": jnp.asarray([[5, 6, 7]]), "n": jnp.asarray([2])}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["scored"].logits.shape == (1, 3, names["model"].config.vocab_size)
    assert names["cache"].length.tolist() == [2]
    assert capsys.readouterr().out


@pytest.mark.sweep
def test_the_strategy_the_policy_and_the_drafter_of_the_guide_run(capsys):
    page = (ROOT / "docs" / "add_a_strategy.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    names = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, "add_a_strategy.md", "exec"), names)
        assert re.search(r"'accepted'|^\d+\.\d+$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.sweep
def test_the_page_on_verification_runs(capsys):
    page = (ROOT / "docs" / "verification.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "verification.md", "exec"), {})
    assert "'accepted'" in capsys.readouterr().out


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.sweep
def test_the_page_on_masked_generation_names_every_policy_and_runs(capsys):
    page = (ROOT / "docs" / "masked_generation.md").read_text("utf-8")
    for room in (masked.blocks, masked.unmask, masked.remask, masked.stop, masked.caches):
        for name in room.__all__:
            policy = getattr(room, name)
            if isinstance(policy, type) and policy.__doc__.startswith(
                ("An `Unmask`", "A `Remask`", "A `Stop`")
            ):
                assert f"`{name}`" in page or f".{name}`" in page, name
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, "masked_generation.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[-1] == "2.0"


def names_in(page, head):
    """What stands in the first column of the table with this head, without its quotes."""
    table = page.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"`([^`]+)`", " ".join(line.split("|")[1] for line in table.splitlines()[2:]))


@pytest.mark.sweep
def test_the_page_on_parallel_decoding_names_every_policy_and_runs(capsys):
    names = ("parallel_decode.md", "verification.md")
    page, rules = ((ROOT / "docs" / name).read_text("utf-8") for name in names)
    rooms = (
        (drafters, "drafter", page, ("propose", "propose_on")),
        (acceptance, "rule", rules, ("outcomes",)),
        (lengths, "length", page, ("limit",)),
    )
    for room, head, text, methods in rooms:
        policies = {
            name
            for name in room.__all__
            if any(hasattr(getattr(room, name), method) for method in methods)
            and not getattr(getattr(room, name), "_is_protocol", False)
        }
        named = set(names_in(text, head))
        assert policies - {"Draft"} <= named, policies - named
        assert all(hasattr(room, name) or hasattr(decoding, name) for name in named), named
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "parallel_decode.md", "exec"), {"__name__": "guide"})
    assert float(capsys.readouterr().out) >= 0


@pytest.mark.sweep
def test_the_page_on_diffusion_names_what_there_is_and_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the picture
    page = (ROOT / "docs" / "diffusion.md").read_text("utf-8")
    for head, known in (("class", PIPELINES), ("name", SAMPLERS)):
        assert sorted(names_in(page, head)) == sorted(known)
    caches = page[page.index("## Caches") :]
    assert names_in(caches, "name") == list(CACHES)
    for name, named in SAMPLERS.items():
        classes = {kind.__name__ for kind in (named.of_betas, named.of_flow) if kind is not None}
        row = re.search(rf"^\| `{re.escape(name)}` \|.*$", page, re.MULTILINE).group()
        assert set(re.findall(r"`([^`]+)`", row)) == classes | {name}
    for name in guidance.__all__:
        if not name.endswith(("Guidance", "Outputs")):
            assert f"`{name}" in page, name
    names = {}
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)  # the others train
    exec(compile(block, "diffusion.md", "exec"), names)
    assert names["made"].pixels.shape == (3, 16, 16, 1) and len(names["made"].blocks) == 20
    assert (tmp_path / "digits.png").is_file()

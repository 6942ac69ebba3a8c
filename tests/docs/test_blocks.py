"""Every block of code on every page runs, page by page and in order.

Photographs and models that a reader is to replace are replaced here. Blocks that cannot run here
say so in a comment, with the reason, and are compiled.
"""

import ast
import doctest
import json
import re
import runpy
import shlex
import shutil
from importlib.util import find_spec

import pytest
import tomllib
import torch
import typer

import otprune
from otprune import demo
from otprune.cli.app import app

from .pages import DOCS, FENCE, PAGES, ROOT, blocks

COFFEE = str(demo.SAMPLES_DIR / "coffee.jpg")
PUT = {  # in blocks of Python: what a reader has instead
    "Qwen/Qwen2.5-VL-3B-Instruct": str(demo.MODEL_DIR),
    "photo.jpg": COFFEE,
    "clip.mp4": str(demo.CLIP),
    "examples/questions.jsonl": str(ROOT / "examples/questions.jsonl"),
    "memory=2048": "memory=1024",  # the embedded model has 2048 positions in all
}


@pytest.fixture(scope="module")
def quickstart():
    """What the quick start leaves behind; pages begin with it."""
    scope = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        exec(blocks(DOCS / "index.md")[1].text, scope)
    return scope


def has(page, scope, folder):
    """What a page speaks of beside the quick start's model, processor and inputs."""
    if page.name == "README.md":
        return {}
    tokens = scope["run"].last[0].features
    (seen,) = otprune.visual_tokens(scope["model"], scope["inputs"], cues=("saliency", "encoded"))
    given = {
        "tokens": seen.features,
        "attention": seen.cues.saliency,
        "features": seen.cues.encoded,
        "frames": [tokens, tokens],
        "camera": [tokens, tokens],
    }
    if page.stem == "robots":
        given |= runpy.run_path(str(ROOT / "examples/robot.py"))
    if page.stem == "policies":
        given |= policies(scope)
    if page.stem == "vllm":
        (folder / "my-llava").mkdir()
        shutil.copy(demo.MODEL_DIR / "model.safetensors", folder / "my-llava")
    return given


def policies(scope):
    """A policy and its processor, a base model, and the classes that a head is made of."""
    from transformers import Qwen2VLConfig, Qwen2VLPreTrainedModel
    from transformers.modeling_layers import GenericForSequenceClassification

    made = runpy.run_path(str(ROOT / "examples/policy.py"))
    count = 2 * made["TOKENS"]
    call = {
        "input_ids": torch.tensor([[made["IMAGE"]] * count + [2, 11, 12, 13]]),
        "attention_mask": torch.ones(1, count + 4, dtype=torch.long),
        "pixel_values": torch.zeros(1, 2, 3, 112, 112),
        "pixel_attention_mask": torch.tensor([[True, True]]),
        "state": torch.zeros(1, 7),
    }
    return {
        "policy": made["policy"](),
        "processor": lambda images, text, state: call,
        **dict.fromkeys(("cameras", "task", "state")),
        "base_model": scope["model"].model,
        "GenericForSequenceClassification": GenericForSequenceClassification,
        "Qwen2VLPreTrainedModel": Qwen2VLPreTrainedModel,
        "Qwen2VLConfig": Qwen2VLConfig,
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_runs(page, quickstart, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {**quickstart, **has(page, quickstart, tmp_path)}
    for block in blocks(page):
        if block.kind != "python":
            continue
        code = block.text
        for theirs, ours in PUT.items():
            code = code.replace(theirs, ours)
        compiled = compile(code, str(page), "exec")
        if not block.runs:
            continue
        capsys.readouterr()
        exec(compiled, scope)
        said = capsys.readouterr().out
        if block.printed is not None:
            how = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            wanted = re.sub(r"\b\d+\.\d+ s\b", "... s", block.printed)  # times are no promise
            assert doctest.OutputChecker().check_output(wanted, said, how), said


def test_the_readme_prunes_to_a_tenth(capsys):
    code = next(block.text for block in blocks(ROOT / "README.md") if block.kind == "python")
    for theirs, ours in PUT.items():
        code = code.replace(theirs, ours)
    exec(code, {})
    assert capsys.readouterr().out.strip().endswith("144 -> 14")


def commands(page):
    """The lines of a page's console blocks, and of sessions in text blocks."""
    for block in blocks(page):
        text = block.text.replace("\\\n", " ")
        if block.kind in ("console", "bash"):
            yield from (shlex.split(line, comments=True) for line in text.splitlines())
        elif block.kind == "text":
            yield from (shlex.split(x[2:]) for x in text.splitlines() if x.startswith("$ "))


LINES = [(page, words) for page in PAGES for words in commands(page) if words]


@pytest.mark.parametrize(
    ("page", "words"), LINES, ids=[f"{page.stem}-{' '.join(words)[:40]}" for page, words in LINES]
)
def test_a_command_is_one(page, words):
    """Every word of it means something to the program that it is for."""
    CHECKS[words[0]](words[1:])


def check_otprune(words):
    """By the parser itself; names that a reader replaces need not exist."""
    command = typer.main.get_command(app)
    context = command.make_context("otprune", list(words), resilient_parsing=False)
    name, found, rest = command.resolve_command(context, list(words))
    if name != "bench":  # its options belong to the benches' package
        found.make_context(name, rest, parent=context)
    else:
        from otprune_bench.registry import BENCHES

        assert not rest or rest[0] in {
            *(bench.name for bench in BENCHES),
            "all",
            "compare",
            "...",
        }, rest


def check_make(words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    variables = re.findall(
        r"^(\w+) [?:]?=|\$\((\w+)\)", (ROOT / "Makefile").read_text(), flags=re.M
    )
    names = {name for pair in variables for name in pair}
    for word in words:
        assert word in targets or word.partition("=")[0] in names, word


def check_pip(words):
    assert words[0] == "install"
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words[1:]:
        if match := re.fullmatch(r"(?:\.|otprune)\[([\w,]+)\](?: @ git\+URL)?", word):
            assert set(match[1].split(",")) <= {*known, "EXTRA"}, word
        elif word.startswith("./"):
            folder, _, extras = word.rstrip("]").partition("[")
            project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
            there = project.get("optional-dependencies", {})
            assert not extras or set(extras.split(",")) <= set(there), word


def check_vllm(words):
    """Its own flags are known by name; the settings are read as the engine reads them."""
    from otprune.engines.vllm.settings import engine_settings

    assert words[0] == "serve"
    flags = {word for word in words if word.startswith("--")}
    assert flags <= {"--hf-overrides", "--trust-request-mm-kwargs", "--block-size"}, flags
    engine_settings(json.loads(words[words.index("--hf-overrides") + 1])["otprune"])


def check_lmms(words):
    """`--model_args` are arguments of the model class."""
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given["--model"] in ("otprune_hf", "otprune")
    check_model_args(given.get("--model_args", ""))


def check_model_args(text):
    model = (ROOT / "src/otprune/engines/lmms_eval/model.py").read_text()
    (made,) = (
        node
        for node in ast.walk(ast.parse(model))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    taken = {argument.arg for argument in (*made.args.args, *made.args.kwonlyargs)}
    settings = {name for method in otprune.METHODS.values() for name in vars(method(1.0))}
    for item in filter(None, text.split(",")):
        assert item.partition("=")[0] in taken | settings, item


def check_python(words):
    if words[0] == "-m":
        if words[1] == "lmms_eval":
            check_lmms(words[2:])
        else:
            assert find_spec(words[1]) is not None, words[1]
    else:
        assert (ROOT / words[0]).is_file(), words[0]


def check_pytest(words):
    flag, mark, *paths = words
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert flag == "-m"
    assert mark in {said.partition(":")[0] for said in options["markers"]}
    assert all((ROOT / path).is_file() for path in paths)


CHECKS = {
    "otprune": check_otprune,
    "make": check_make,
    "pip": check_pip,
    "vllm": check_vllm,
    "lmms-eval": check_lmms,
    "python": check_python,
    "pytest": check_pytest,
    "jupyter": lambda words: (ROOT / words[1]).is_file(),
    ".ci/run": lambda words: None,
}


def test_inline_commands_are_ones():
    """Options that running text names exist too."""
    command = typer.main.get_command(app)
    known = {"--help", "--version"}
    for found in command.commands.values():
        known |= {option for item in found.params for option in item.opts + item.secondary_opts}
    for name in ("command_line", "watch", "index", "evaluate", "choosing"):
        text = FENCE.sub("", (DOCS / f"{name}.md").read_text())
        for option in re.findall(r"`(--[\w-]+)", text):
            assert option in known, f"{name}.md: {option}"


def test_blocks_say_what_they_are():
    """Highlighted, and run by the tests above: none is without its language."""
    for page in PAGES:
        for block in blocks(page):
            assert block.kind in ("python", "console", "text", "bash", "bibtex", "json"), page

"""The README's example runs as it stands, but for the model's name and the photograph's."""

import re
from pathlib import Path

from otprune.demo import MODEL_DIR, SAMPLES_DIR

README = (Path(__file__).parent.parent / "README.md").read_text()


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_examples_run(capsys) -> None:
    model, tokens, _ = (
        python_blocks()
    )  # the last asks a server: tests/engines/vllm/test_embedded.py
    model = model.replace("Qwen/Qwen2.5-VL-3B-Instruct", str(MODEL_DIR))
    model = model.replace("photo.jpg", str(SAMPLES_DIR / "coffee.jpg"))
    scope: dict[str, object] = {}
    exec(model, scope)
    assert capsys.readouterr().out.strip().endswith("144 -> 14")
    scope["tokens"] = scope["run"].last[0].features
    exec("import otprune\n" + tokens, scope)
    assert len(scope["indices"]) == 56
    assert sum(map(len, scope["kept"])) == 14  # 5% of both frames
    assert len(scope["fresh"]) < 16  # the frame was there before: less than the rate


def test_pictures_and_pages_that_it_names_exist() -> None:
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists() or (root / f"{target}.md").exists(), target

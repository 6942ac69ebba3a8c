"""Accuracy, loyalty and time on your own images and questions.

    python examples/own_data.py questions.jsonl --model Qwen/Qwen2.5-VL-3B-Instruct

Each line of the file is {"image": "photo.jpg", "question": "What is this?", "answer": "a cat"}.
Paths start at the file's folder. Without arguments: the embedded model and twelve questions about
the sample photographs.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import otprune
from otprune import demo

HERE = Path(__file__).parent


def ask(model, processor, image: Path, question: str) -> str:
    """The model's answer, whatever the model."""
    content = [{"type": "image", "image": str(image)}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(model, processor, file: Path, keeps: tuple[float, ...]) -> None:
    cases = [json.loads(line) for line in file.read_text().splitlines()]
    unpruned: list[str] = []
    for keep in (1.0, *keeps):  # 1.0 changes nothing: the unpruned model
        answers, seconds = [], []
        for case in cases:
            start = perf_counter()
            with otprune.prune(model, **otprune.recommended(keep)):
                answer = ask(model, processor, file.parent / case["image"], case["question"])
            seconds.append(perf_counter() - start)
            answers.append(answer.strip().lower())
        unpruned = unpruned or answers
        right = sum(a == case["answer"].lower() for a, case in zip(answers, cases, strict=True))
        loyal = sum(a == before for a, before in zip(answers, unpruned, strict=True))
        median = sorted(seconds)[len(seconds) // 2]
        total = len(cases)
        print(f"keep {keep:<5} right {right}/{total}  as unpruned {loyal}/{total}  {median:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=HERE / "questions.jsonl")
    parser.add_argument("--model", help="name or folder; the embedded model if left out")
    given = parser.parse_args()
    model, processor = load(given.model)
    measure(model, processor, given.file, (0.25, 0.1, 0.05, 0.02))


def load(name: str | None):
    if name is None:
        return demo.load()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto").eval()
    return model, AutoProcessor.from_pretrained(name)


if __name__ == "__main__":
    main()

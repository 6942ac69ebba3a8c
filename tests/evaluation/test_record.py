"""The file of answers."""

from dataclasses import asdict

from otprune.evaluation.answers import Answer
from otprune.evaluation.record import opened

HEAD = {"otprune": "1"}


def line(key, text):
    return {"key": key, "way": "unpruned"} | asdict(Answer(text, 1, 2, 0.5, 0.0, 3))


def test_line_separators_inside_answers(tmp_path):
    text = "a\u2028b\u0085c\nd\re"
    with opened(tmp_path / "a", HEAD) as record:
        record.write(line("k", text))
    with opened(tmp_path / "a", HEAD) as record:
        assert record.found["k", "unpruned"].answer == text


def test_two_runs_at_once_lose_nothing(tmp_path):
    with opened(tmp_path / "a", HEAD) as one, opened(tmp_path / "a", HEAD) as other:
        one.write(line("1", "long" * 9))
        other.write(line("2", "b"))
        one.write(line("3", "c"))
    with opened(tmp_path / "a", HEAD) as record:
        assert {key for key, _ in record.found} == {"1", "2", "3"}

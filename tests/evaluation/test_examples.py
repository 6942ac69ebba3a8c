"""Images and questions of a folder, and of JSON lines; what is wrong is told with its line."""

import json
from pathlib import Path

import pytest

from otprune import OTPruneError
from otprune.demo import unknown_words
from otprune.evaluation.examples import Example, read
from otprune_training.make_samples import SAMPLES, questions_of
from tests.untrained import scene


def lines(path, *given):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in given))
    return path


def test_json_lines(tmp_path):
    data = read(
        lines(
            tmp_path / "d.jsonl",
            {"image": "a.png", "question": "What?", "answer": "cat"},
            "",
            {
                "images": ["a.png", "http://x/b.png"],
                "prompt": "Who?",
                "answers": ["1", 2],
                "id": 7,
            },
            {"file_name": "c.png", "question": "Who?", "answer": None, "kind": "x"},
        )
    )
    assert data.examples == (
        Example(("a.png",), "What?", ("cat",)),
        Example(("a.png", "http://x/b.png"), "Who?", ("1", "2")),
        Example(("c.png",), "Who?"),
    )
    assert data.unused == ("id", "kind")
    places = [photo.name for photo in data.photos(data.examples[1])]
    assert places == [str(tmp_path / "a.png"), "http://x/b.png"]


def test_a_byte_order_mark_and_lines_of_windows(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'\xef\xbb\xbf{"image": "a", "question": "b"}\r\n\r\n')
    assert read(tmp_path / "d.jsonl").examples == (Example(("a",), "b"),)


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    line = json.dumps({"image": "a", "question": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "d.jsonl").write_text(line, encoding="utf-8")
    assert read(tmp_path / "d.jsonl").examples == (Example(("a",), "one\u2028two"),)


def test_a_folder(tmp_path):
    for name in ("b.png", "a.jpg"):
        scene().save(tmp_path / name)
    with pytest.raises(OTPruneError, match="images and no questions: give one for all with --que"):
        read(tmp_path)
    data = read(tmp_path, "What?")
    assert data.examples == (Example(("a.jpg",), "What?"), Example(("b.png",), "What?"))
    assert data.photos(data.examples[0])[0].open().image.size == (120, 80)
    lines(tmp_path / "metadata.jsonl", {"file_name": "b.png", "question": "Own?"})
    assert read(tmp_path).examples == (Example(("b.png",), "Own?"),)


def test_a_question_for_lines_that_have_none(tmp_path):
    path = lines(tmp_path / "d.jsonl", {"image": "a"}, {"image": "b", "question": "Own?"})
    assert [x.question for x in read(path, "All?").examples] == ["All?", "Own?"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: this is no JSON"),
        ("[1]", "line 2: expected an object"),
        ({"question": "b"}, "line 2: it has no image"),
        ({"image": [], "question": "b"}, "line 2: it has no image"),
        ({"image": "a"}, "line 2: expected one question"),
        ({"image": "a", "question": " "}, "line 2: expected one question"),
        ({"image": "a", "question": ["b", "c"]}, "line 2: expected one question"),
        ({"image": {"bytes": "x"}, "question": "b"}, "image is {'bytes': 'x'}: expected text"),
        ({"image": "a", "question": "b", "answer": True}, "answer is True: expected text"),
        ({"image": "a", "images": "a", "question": "b"}, "image and images mean the same"),
    ],
)
def test_a_wrong_line(tmp_path, line, said):
    path = lines(tmp_path / "d.jsonl", {"image": "a", "question": "b"}, line)
    with pytest.raises(OTPruneError) as caught:
        read(path)
    assert said in str(caught.value)


def test_a_file_without_lines(tmp_path):
    with pytest.raises(OTPruneError, match="is empty: expected lines such as"):
        read(lines(tmp_path / "d.jsonl", "", " "))
    with pytest.raises(OTPruneError, match="no such folder or file"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OTPruneError, match="cannot be read as text"):
        read(tmp_path / "b.jsonl")


def test_the_sample_data_are_those_of_the_scenes():
    data = read(Path("sample"))
    made = {
        (f"{name}.jpg", question.text.replace(" ", "").lower(), question.answer)
        for name in SAMPLES
        for question in questions_of(name)
    }
    told = {(x.images[0], x.question.replace(" ", "").lower(), *x.answers) for x in data.examples}
    assert told == made
    assert len(data.examples) > 60
    assert not [x.question for x in data.examples if unknown_words(x.question)]

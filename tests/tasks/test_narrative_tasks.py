"""Flawed Fictions and Next-Chapter Prediction, on fixtures in the schema of their releases."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import latbench
from latbench.config import GenerateConfig
from latbench.model.batches import pad
from latbench.model.perplexity import perplexities, scorer
from latbench.registry import get_task_entry
from latbench.task import Task
from tasks.flawed_fictions import FlawedFictionsConfig
from tasks.next_chapter import PLAN, NextChapterConfig, plan_of

LONG = "The lantern swung above the quay, and nobody spoke. " * 75  # 3,900 characters, each a token of the tiny model


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def task(name: str, **settings: Any) -> Task[Any]:
    entry = get_task_entry(name)
    made: Task[Any] = entry.cls(entry.config(**settings))
    return made


# Flawed Fictions


def story(number: int, **changes: Any) -> dict[str, Any]:
    flawed = number % 2
    return {
        "story": f"Story {number}. {LONG if number == 7 else 'Ann was an only child. Her brother came.'}",
        "cont_error": flawed,
        "cont_error_expl": "She has no brother." if flawed else "No error",
        "cont_error_lines": "Her brother came." if flawed else "",
        "contradicted_lines": "Ann was an only child." if flawed else "",
        "example_id": f"x{number}",
    } | changes


@pytest.fixture
def stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    write(tmp_path, "flawed_fictions.jsonl", [story(number) for number in range(414)])
    return tmp_path


def test_stories_are_divided_as_the_authors_do(stories: Path) -> None:
    found = task("flawed_fictions")
    sizes = {split: len(found.load(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 290, "validation": 62, "test": 62}
    ids = [example.id for split in sizes for example in found.load(split)]
    assert len(set(ids)) == 414
    import datasets

    shuffled = datasets.Dataset.from_list([{"n": n} for n in range(414)]).shuffle(seed=42)["n"]
    assert [int(name.rsplit("-", 1)[1]) for name in ids] == list(shuffled)
    assert "shuffled with seed 42, 352:414" in found.fingerprint("test").source
    assert found.fingerprint("test").num_examples == 62


def test_a_story_becomes_a_question_with_yes_or_no(stories: Path) -> None:
    found = task("flawed_fictions")
    every = {e.id: e for split in ("train", "validation", "test") for e in found.load(split)}
    flawed, sound = every["flawed-fictions-001"], every["flawed-fictions-002"]
    assert (flawed.answer, sound.answer) == ("Yes", "No")
    assert flawed.steps == ()
    assert flawed.meta["cont_error_lines"] == "Her brother came."
    assert flawed.meta["example_id"] == "x1"
    prompt = found.prompt(flawed)
    assert "<story>\nStory 1. Ann was" in prompt
    assert "\\boxed{Yes} or \\boxed{No}" in prompt
    assert "implicit_thought" not in prompt
    assert len(found.prompt(every["flawed-fictions-007"])) > 3900


@pytest.mark.parametrize(
    ("text", "label", "status"),
    [
        ("It does. \\boxed{yes.}", "Yes", "correct"),
        ("\\boxed{No} ... wait \\boxed{Yes}", "Yes", "correct"),
        ("\\boxed{Yes} ... wait \\boxed{No}", "Yes", "incorrect"),
        ("Yes", "Yes", "no_answer"),
        ("\\boxed{maybe}", "Yes", "incorrect"),
        ("\\boxed{ NO! }", "No", "correct"),
        ("", "No", "no_answer"),
    ],
)
def test_the_last_box_counts(stories: Path, text: str, label: str, status: str) -> None:
    found = task("flawed_fictions")
    example = next(example for example in found.load("test") if example.answer == label)
    assert found.score(text, example).status == status
    assert found.rewards([(text, example)]) == [float(status == "correct")]


def test_a_word_alone_counts_where_it_is_asked_for(stories: Path) -> None:
    found = task("flawed_fictions", boxed=False)
    example = next(example for example in found.load("test") if example.answer == "Yes")
    assert [found.score(text, example).status for text in ("Yes", "no", "well, yes")] == [
        "correct", "incorrect", "no_answer",
    ]  # fmt: skip


def test_bad_stories_are_refused(stories: Path) -> None:
    write(stories, "flawed_fictions.jsonl", [story(number) for number in range(10)])
    with pytest.raises(ValueError, match=r"holds 10 rows, but task 'flawed_fictions', split 'test' has 414"):
        task("flawed_fictions").load("test")
    write(stories, "flawed_fictions.jsonl", [story(0), story(1, cont_error=2)])
    with pytest.raises(ValueError, match=r"line 2: field 'cont_error' is 2, not 0 or 1"):
        task("flawed_fictions").load("test")
    broken = story(0)
    del broken["story"]
    write(stories, "flawed_fictions.jsonl", [broken])
    with pytest.raises(ValueError, match=r"line 1: field 'story' is missing"):
        task("flawed_fictions").load("test")
    assert FlawedFictionsConfig().boxed


# Next-Chapter Prediction


def chapter(book: int, index: int, **changes: Any) -> dict[str, Any]:
    return {
        "story_text": f"Chapter {index - 1} of book {book}. {LONG if book == 0 else 'They sailed.'}",
        "next_chapter_header": f"Chapter {index}",
        "prior_plot_summary": "A crew is hired.",
        "high_level_plot_summary": "A voyage {and} back.",
        "character_sheets": {"Ann": "captain", "Bo": "cook"},
        "next_chapter_synopsis": "A storm.",
        "last_n_chapters": 1,
        "next_chapter": f"Book {book}, chapter {index}: " + "the storm broke over them. " * (book + index),
        "chapter_index": index,
        "story_id": f"book{book}",
    } | changes


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    write(tmp_path, "next_chapter_test.jsonl", [chapter(book, index) for book in range(6) for index in (2, 3)])
    return tmp_path


def tiny(**settings: Any) -> Task[Any]:
    return task("next_chapter", scorer_model="tiny", scorer_device="cpu", **settings)


def test_a_chapter_becomes_a_question_and_is_told_from_others_of_like_length(books: Path) -> None:
    found = tiny()
    examples = found.load("test")
    first = examples[2]
    assert (first.id, len(examples)) == ("book1-2", 12)
    for text in ("A voyage {and} back.", "Ann: captain\n\nBo: cook", "They sailed.", "A storm.", PLAN):
        assert text in first.question
    assert first.answer.startswith("Book 1, chapter 2")
    assert len(first.meta["others"]) == 4
    assert not any(text.startswith("Book 1,") for text in first.meta["others"])
    assert "Book 0, chapter 3: the storm broke over them. the storm" in first.meta["others"][0]
    assert len(examples[0].question) > 3900


def test_a_plan_is_worth_its_contrastive_improvement(books: Path) -> None:
    found = tiny(plan_tokens=64, chapter_tokens=64)
    examples = found.load("test")
    pairs = [(f"I think so. {PLAN} they drown.", examples[0]), ("", examples[1]), ("A storm. They win.", examples[4])]
    rewards = found.rewards(pairs)
    assert rewards[1] == 0
    assert [score.status for score in found.score_many(pairs)] == [
        "correct" if rewards[0] > 0 else "incorrect", "no_answer", "correct" if rewards[2] > 0 else "incorrect",
    ]  # fmt: skip
    model = scorer("tiny", "cpu")
    context = model.encode(examples[4].question)[-(4096 - 128) :]
    plan = model.encode("\n\nA storm. They win.\n\n")
    worth = []
    for text in (examples[4].answer, *examples[4].meta["others"]):
        ids = model.encode(text)[:64]
        before, after = (_perplexity(model, [*context, *middle], ids) for middle in ([], plan))
        worth.append(100 * (1 - after / before))
    assert rewards[2] == pytest.approx(worth[0] - sum(worth[1:]) / 4, abs=1e-3)
    assert math.isfinite(rewards[0])
    assert rewards[0] != 0  # its context is cut to what the scorer reads


def _perplexity(model: Any, context: list[int], text: list[int]) -> float:
    tokens = pad([[*context, *text]])
    with torch.inference_mode():
        logits = model.causal(model.embed(tokens.ids), tokens.positions, select=tokens.mask).logits
    each = logits.log_softmax(-1)[len(context) - 1 : -1].gather(-1, torch.tensor(text)[:, None])
    return float((-each.mean()).exp())


def test_perplexities_keep_their_order_whatever_the_lengths() -> None:
    model = scorer("tiny", "cpu")
    rows = [(model.encode("a" * n), model.encode("b" * (40 - n))) for n in (30, 1, 20, 5)]
    rows += [(model.encode("c" * 4000), model.encode("d" * 90))]
    assert perplexities(model, rows) == pytest.approx([perplexities(model, [row])[0] for row in rows], rel=1e-5)


def test_the_plan_is_what_follows_the_last_heading() -> None:
    assert plan_of(f"{PLAN} no. {PLAN} yes.") == "yes."
    assert plan_of(" all of it ") == "all of it"
    assert plan_of(f"So. {PLAN} ") == ""


def test_bad_books_and_settings_are_refused(books: Path) -> None:
    write(books, "next_chapter_test.jsonl", [chapter(0, 2), chapter(0, 3), chapter(1, 2)])
    with pytest.raises(ValueError, match=r"'book0-2' has 1 chapters of other books to be told from and needs 4"):
        tiny().load("test")
    write(books, "next_chapter_test.jsonl", [chapter(0, 2, character_sheets="none")])
    with pytest.raises(ValueError, match=r"line 1: field 'character_sheets' is no object but str"):
        tiny().load("test")
    with pytest.raises(ValueError, match=r"no data for task 'next_chapter', split 'train'.*next_chapter_train.jsonl"):
        tiny().load("train")
    with pytest.raises(ValueError, match=r"leave no room for the context in task.scorer_tokens = 2048; raise it"):
        NextChapterConfig(scorer_tokens=2048)


def test_chapters_are_not_learnt_as_plans(books: Path, tmp_path: Path) -> None:
    rows = [chapter(book, index) for book in range(6) for index in (2, 3)]
    for split in ("train", "val"):
        write(books, f"next_chapter_{split}.jsonl", rows)
    settings = {"task.scorer_model": "tiny", "task.scorer_device": "cpu", "model.device": "cpu"}
    with pytest.raises(ValueError, match=r"'sft' of method 'cot' cannot learn from them; train with train.rl and"):
        latbench.train("cot", task="next_chapter", settings=settings, runs_dir=tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("next*"))


def test_a_method_reads_long_questions(books: Path) -> None:
    from latbench.config import ModelConfig
    from latbench.decoding.loop import Prompt
    from latbench.model.backbone import Backbone
    from methods.litereason import LiteReason, LiteReasonConfig

    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 32}
    model = LiteReason(Backbone.load(ModelConfig(**sizes, device="cpu", layout="plain_boxed")), LiteReasonConfig())
    question = tiny().load("test")[0].question[-3600:]
    (answer,) = model.generate([Prompt(id="0", text=question)], GenerateConfig(max_new_tokens=2))
    assert answer.num_prompt_tokens > 3600
    assert answer.stop_reason in ("length", "eos")
    (late,) = model.generate([Prompt(id="0", text=question * 2)], GenerateConfig(max_new_tokens=2))
    assert late.stop_reason == "prompt_too_long"

"""Traces: what is stored, resume by chunk, what is refused; and the inspection of one question."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass as config_dataclass
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from latbench import registry
from latbench.cli import main
from latbench.config import GenerateConfig, parse
from latbench.decoding.latent_trace import LatentTrace
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import FixedLatents, Latent, RowState, StepRule
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import RECORDS, SHARDS, TRACE, TRACE_HEADER, read_evaluation, read_manifest
from latbench.evaluation.shards import Shard, owned
from latbench.measures import trace as module
from latbench.measures.inspect import InspectedStep, inspect, latent_steps, render
from latbench.measures.latents import AnswerLatents, StoredTrace, TraceHeader
from latbench.measures.measure_files import read_measures
from latbench.measures.trace import NoLatentStepsError, lost_shards, trace
from latbench.method import Losses, Method, MethodConfig, Stage
from latbench.model.batches import SequenceBatch
from latbench.runs import environment
from latbench.runs.lock import locked
from latbench.runs.run import Run, load_run
from latbench.runs.train import train
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy
from latbench.util.text import printable

SETTINGS = (
    "train.max_steps=2",
    "train.batch_size=4",
    "task.num_train=40",
    "task.num_test=20",
    "generate.chunk=8",
    "generate.max_new_tokens=6",
    "generate.trace_top_k=7",
    "model.hidden_size=16",
    "model.num_heads=2",
    "model.num_layers=1",
    "model.mlp_size=16",
    "model.dtype=float64",  # or near-ties among the top tokens fall differently in another batch
)


class Uneven(FixedLatents):
    """Feeds the hidden state back up to `num_latents` times; how often depends on the row's key, some rows never."""

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule."""
        return Latent(hidden, rows.num_latents >= rows.keys % (self.num_latents + 1))


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class UnevenConfig(MethodConfig):
    """Most latent steps of a row."""

    num_latents: int = 4


class UnevenMethod(Method[UnevenConfig]):
    """Trained as plain text, thinks in latent steps."""

    def stages(self) -> list[Stage]:
        return [Stage(name="sft")]

    def batch(self, examples: Sequence[Example], stage: Stage) -> SequenceBatch:
        return self.backbone.batch_sequences(examples, supervise="steps")

    def loss(self, batch: SequenceBatch, stage: Stage) -> Losses:
        return Losses(ce=token_cross_entropy(*self.backbone.logits_at_labels(batch.tokens)))

    def rule(self, config: GenerateConfig) -> StepRule:
        return Uneven(self.backbone, self.config.num_latents)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    registry.register_method("uneven", config=UnevenConfig)(UnevenMethod)
    yield
    del registry._entries["method"]["uneven"]  # alone: other methods may be imported meanwhile, and are once only


@pytest.fixture(scope="module")
def thinker(_registered: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run with latent steps; not to be written to."""
    return train(parse({"method": "uneven"}, overrides=SETTINGS), runs_dir=tmp_path_factory.mktemp("thinker"))


@pytest.fixture
def latent_run(thinker: Run, tmp_path: Path) -> Run:
    """A copy of it, alone in a folder of runs."""
    folder = tmp_path / "runs" / thinker.folder.name
    shutil.copytree(thinker.folder, folder)
    return load_run(folder)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def generated(run: Run, samples: int = 1, **changes: Any) -> list[Generation]:
    """All questions at once, question by question."""
    job = EvalJob.of(run, "synth", changes=changes)
    prompts = [Prompt(id=e.id, text=e.question, sample=s) for e in job.examples for s in range(samples)]
    return run.method.generate(prompts, job.settings.generate, seed=job.settings.seed, trace=True)


def test_a_stored_trace_is_that_of_the_answers(latent_run: Run) -> None:
    changes = {"generate.samples": 2}
    traces = StoredTrace.open(trace(EvalJob.of(latent_run, "synth", changes=changes)))
    assert (traces.num_questions, traces.header.n, traces.header.samples) == (20, 40, 2)
    assert [path.name for path in sorted(traces.folder.glob("*.safetensors"))] == [
        f"chunk-0000{index}.safetensors" for index in range(3)
    ]
    answers = generated(latent_run, samples=2, **changes)
    assert {answer.num_latents for answer in answers} == set(range(5))
    for number, answer in enumerate(answers):
        found = traces.get(*divmod(number, 2))
        assert len(found.entropy) == answer.num_latents
        if answer.trace is None:
            continue
        assert found.ids.tolist() == answer.trace.ids.tolist()
        assert found.ids.shape[1] == 7
        for name in ("weights", "entropy", "norm", "embeds"):
            tolerance = 1e-3 if name in ("weights", "embeds") else 1e-5
            there, here = getattr(found, name), getattr(answer.trace, name)
            assert there.dtype == np.float32
            np.testing.assert_allclose(there, here.numpy(), rtol=tolerance, atol=tolerance)
    assert traces.num_latents == sum(answer.num_latents for answer in answers)
    for place in ((20, 0), (-1, 0), (0, 2)):
        with pytest.raises(IndexError, match="no question"):
            traces.get(*place)


def test_stored_types_are_small(latent_run: Run) -> None:
    folder = trace(EvalJob.of(latent_run, "synth"))
    with safe_open(folder / "chunk-00000.safetensors", "pt") as file:
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert types == {"ids": "I32", "weights": "F32", "entropy": "F32", "norm": "F32", "embeds": "F16", "counts": "I64"}


def test_embeddings_beyond_half_precision_are_kept_whole() -> None:
    huge = LatentTrace(
        ids=torch.ones(1, 2).int(),
        weights=torch.tensor([[0.75, 0.25]]),
        entropy=torch.zeros(1),
        norm=torch.ones(1),
        embeds=torch.tensor([[1e6, 1.0]]),
    )
    numbers: dict[str, Any] = {f.name: 0 for f in fields(Generation) if f.name.startswith(("num_", "decode_"))}
    answer = Generation(text="", reasoning="", closed=True, stop_reason="eos", trace=huge, **numbers)
    stored = module._tensors([replace(answer, trace=None), answer])
    assert stored["counts"].tolist() == [0, 1]
    assert torch.equal(stored["embeds"], huge.embeds)
    assert stored["weights"].dtype == torch.float32


def test_records_and_trace_of_an_evaluation_do_not_touch(latent_run: Run) -> None:
    job = EvalJob.of(latent_run, "synth", limit=9)
    records = (evaluate(job) / RECORDS).read_bytes()
    folder = trace(job)
    assert folder == job.folder / TRACE
    assert (folder.parent / RECORDS).read_bytes() == records
    before = bytes_of(folder)
    evaluation = read_evaluation(evaluate(job))
    assert bytes_of(folder) == before
    traces = StoredTrace.open(folder, of=evaluation.manifest)
    assert [len(traces.get(i).entropy) for i in range(9)] == [record.num_latents for record in evaluation.records]


def test_a_trace_stopped_at_any_chunk_resumes_to_the_same_bytes(
    latent_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = EvalJob.of(latent_run, "synth")
    whole = bytes_of(trace(job))
    folder = job.folder / TRACE
    write = module._write_chunk
    written: list[str] = []

    def stopping(path: Path, *rest: Any) -> None:
        if len(written) == left:
            path.with_name(path.name + ".tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *rest)

    monkeypatch.setattr(module, "_write_chunk", stopping)
    for left in range(3):
        shutil.rmtree(folder)
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            trace(job)
        with pytest.raises(ValueError, match=r"no complete trace in .*; make one with `latbench trace`"):
            StoredTrace.open(folder)
        kept = list(written)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_write_chunk", lambda path, *rest: (written.append(path.name), write(path, *rest)))
            trace(job)
        assert written == [f"chunk-0000{index}.safetensors" for index in range(3)]
        assert written[:left] == kept
        assert bytes_of(folder) == whole


def test_a_complete_trace_is_kept_whatever_code_made_it(latent_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = EvalJob.of(latent_run, "synth", limit=3)
    with monkeypatch.context() as patch:
        patch.setattr(environment, "git_state", lambda: ("0" * 40, False))
        folder = trace(EvalJob.of(latent_run, "synth", limit=3))
    whole = bytes_of(folder)
    monkeypatch.setattr(Run, "method", property(lambda self: pytest.fail("the model is not needed")))
    assert bytes_of(trace(job)) == whole
    (folder / TRACE_HEADER).unlink()  # incomplete: other code does not go on with it
    with pytest.raises(ValueError, match="holds the trace of another git_commit"):
        trace(job)


@pytest.mark.parametrize("damage", ["cut", "gone", "no tensors", "counts"])
def test_a_damaged_chunk_is_refused_and_made_again(latent_run: Run, damage: str) -> None:
    job = EvalJob.of(latent_run, "synth", limit=10)
    folder = trace(job)
    whole = bytes_of(folder)
    path = folder / "chunk-00001.safetensors"
    header = json.dumps(json.loads((folder / TRACE_HEADER).read_text()))
    damaged: dict[str, Any] = {
        "cut": lambda: path.write_bytes(path.read_bytes()[:-9]),
        "gone": path.unlink,
        "no tensors": lambda: save_file({}, path, metadata={"header": header}),
        "counts": lambda: save_file(
            {**load_file(path), "counts": torch.tensor([1, 40])},
            path,
            metadata={"header": header},
        ),
    }
    damaged[damage]()
    with pytest.raises(ValueError, match=r"chunk-00001.safetensors (cannot be read \(.*\)|is damaged); trace the run"):
        StoredTrace.open(folder)
    assert bytes_of(trace(job)) == whole


@pytest.mark.parametrize(
    ("field", "value"),
    [("setting", "x"), ("questions_sha256", "x"), ("run", "x"), ("n", 2), ("samples", 3), ("chunk", 9), ("top_k", 3)],
)
def test_the_trace_of_something_else_is_refused(latent_run: Run, field: str, value: Any) -> None:
    job = EvalJob.of(latent_run, "synth", limit=3)
    manifest = read_manifest(evaluate(job))
    folder = trace(job)
    header = json.loads((folder / TRACE_HEADER).read_text())
    (folder / TRACE_HEADER).write_text(json.dumps({**header, field: value}))
    sentence = f"holds the trace of another {field} .*; remove the folder to trace anew"
    with pytest.raises(ValueError, match=sentence):  # the chunks are of another trace than the header
        StoredTrace.open(folder)
    if field in ("setting", "questions_sha256", "run", "n"):
        with pytest.raises(ValueError, match=sentence):
            StoredTrace.open(folder, of=manifest)
    tensors = load_file(folder / "chunk-00000.safetensors")
    module._write_chunk(folder / "chunk-00000.safetensors", tensors, TraceHeader(**{**header, field: value}))
    before = bytes_of(folder)
    with pytest.raises(ValueError, match=sentence):
        trace(job)
    (folder / TRACE_HEADER).unlink()
    with pytest.raises(ValueError, match=sentence):
        trace(job)
    assert bytes_of(folder) == {name: data for name, data in before.items() if name != TRACE_HEADER}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 2}'])
def test_a_damaged_header_is_refused(latent_run: Run, text: str) -> None:
    folder = trace(EvalJob.of(latent_run, "synth", limit=2))
    (folder / TRACE_HEADER).write_text(text)
    with pytest.raises(
        ValueError, match=TRACE_HEADER + " is no header of a trace that this version reads; trace the run"
    ):
        StoredTrace.open(folder)


def test_two_traces_into_one_folder_are_refused(latent_run: Run) -> None:
    job = EvalJob.of(latent_run, "synth", limit=2)
    with (
        locked(job.folder / TRACE),
        pytest.raises(ValueError, match="is being written by process"),
    ):
        trace(job)


def test_a_run_without_latent_steps_is_refused_and_leaves_nothing(run: Run, latent_run: Run) -> None:
    with pytest.raises(NoLatentStepsError, match=f"run {run.folder.name} takes no latent steps"):
        trace(EvalJob.of(run, "synth"))
    assert not (run.folder / "eval").exists()
    latent_run.method.config = UnevenConfig(num_latents=0)  # a latent rule that never takes a step
    job = EvalJob.of(latent_run, "synth", limit=2)
    with pytest.raises(NoLatentStepsError):
        trace(job)
    assert not (job.folder / TRACE / TRACE_HEADER).exists()


@pytest.mark.parametrize(("num_tokens", "num_latents"), [(10, 4), (3, 7), (5, 5), (0, 2), (6, 1), (6, 0)])
def test_the_gold_chain_is_cut_evenly_over_the_latent_steps(num_tokens: int, num_latents: int) -> None:
    trace = AnswerLatents(
        ids=np.tile(np.arange(3, dtype=np.int32), (num_latents, 1)),
        weights=np.tile(np.array([0.5, 0.25, 0.125], np.float32), (num_latents, 1)),
        entropy=np.ones(num_latents, np.float32),
        norm=np.ones(num_latents, np.float32),
        embeds=np.ones((num_latents, 2), np.float32),
        texts=None,
    )
    chain = list(range(10, 10 + num_tokens))
    steps = latent_steps(trace, chain, lambda ids: "".join(f"<{i}>" for i in ids), 2)
    assert len(steps) == num_latents
    for t, step in enumerate(steps, start=1):
        first, last = ceil((t - 1) * num_tokens / num_latents) + 1, ceil(t * num_tokens / num_latents)
        assert step.segment == "".join(f"<{chain[place - 1]}>" for place in range(first, last + 1))
        assert step.tokens == (("<0>", 0.5), ("<1>", 0.25))


def test_an_inspection_is_the_same_stored_and_generated(latent_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = EvalJob.of(latent_run, "synth")
    (index, answer) = next((i, a) for i, a in enumerate(generated(latent_run)) if a.num_latents == 4)
    example = job.examples[index]
    now = inspect(job, index=index, top=3)
    assert (now.id, now.gold, now.steps, now.from_file) == (example.id, example.answer, example.steps, False)
    assert (now.text, now.num_latents, now.stop_reason) == (answer.text, 4, answer.stop_reason)
    assert now.status is not None
    assert answer.trace is not None
    layout = latent_run.method.backbone.layout
    assert layout.tokenizer.decode(layout.steps(example.steps)) == "".join(step.segment for step in now.latents)
    for number, step in enumerate(now.latents):
        assert step.entropy == pytest.approx(float(answer.trace.entropy[number]), rel=1e-5)
        assert [token for token, _ in step.tokens] == [
            layout.tokenizer.decode([token]) for token in answer.trace.ids[number, :3].tolist()
        ]
    trace(job)
    stored = inspect(job, index=index, top=3)
    assert stored.from_file
    evaluate(job)
    monkeypatch.setattr(UnevenMethod, "generate", lambda *_, **__: pytest.fail("everything is on file"))
    assert inspect(job, index=index, top=3) == stored
    assert inspect(job, text=example.question, top=3) == stored
    for a, b in zip(stored.latents, now.latents, strict=True):
        assert (a.segment, [t for t, _ in a.tokens]) == (b.segment, [t for t, _ in b.tokens])
        assert a.entropy == pytest.approx(b.entropy, rel=1e-5)
        assert [w for _, w in a.tokens] == pytest.approx([w for _, w in b.tokens], abs=1e-3)
    assert replace(stored, from_file=False, latents=()) == replace(now, latents=())


def test_a_free_question_has_no_gold_and_more_tokens_than_a_trace_keeps(latent_run: Run) -> None:
    job = EvalJob.of(latent_run, "synth", changes={"generate.trace_top_k": 1})
    found = inspect(job, text="what is this?", top=9)
    assert (found.id, found.gold, found.status, found.steps, found.from_file) == (None, None, None, (), False)
    assert all(len(step.tokens) == 9 and step.segment == "" for step in found.latents)
    text = render(found)
    assert "gold answer  unknown" in text
    assert "not scored" in text


def test_an_absent_index_is_one_sentence(latent_run: Run) -> None:
    with pytest.raises(ValueError, match="--index 4 is none of the questions 0 to 3; choose one of them"):
        inspect(EvalJob.of(latent_run, "synth", limit=4), index=4)


def test_hostile_text_cannot_act_on_a_terminal(latent_run: Run) -> None:
    hostile = "a\x1b[2J\r\nb\x9b31m\u202ec\u2028\x00\x7f"
    assert printable(hostile) == "a\\x1b[2J\\r\\nb\\x9b31m\\u202ec\\u2028\\x00\\x7f"
    assert printable("\\frac{1}{2} ü 数") == "\\frac{1}{2} ü 数"
    found = inspect(EvalJob.of(latent_run, "synth"), index=0)
    step = InspectedStep(entropy=1.0, tokens=((hostile, 0.5),), segment=hostile)
    changes: dict[str, Any] = dict.fromkeys(("question", "gold", "text", "reasoning", "extracted"), hostile)
    text = render(replace(found, steps=(hostile,), latents=(step, step), **changes))
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.count("\\x1b[2J") == 6 + 2 * 2


def test_the_commands_store_and_show(latent_run: Run, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    disable_progress_bar()  # a process of its own has this from `main`, which here comes after the import

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, *capsys.readouterr()

    name = latent_run.folder.name
    where = ["--runs-dir", str(latent_run.folder.parent), "--limit", "5"]
    code, out, _ = call("inspect", name, *where, "--index", "1", "--top", "2")
    assert code == 0
    assert "generated now" in out
    code, out, _ = call("trace", name, *where)
    assert code == 0
    assert out.rstrip().endswith("latent steps of 5 answers")
    sampled = [*where, "--samples", "2", "--set", "generate.temperature=1"]
    found = json.loads(call("trace", name, *sampled, "--json")[1])
    assert found["n"] == 10
    assert found["shown"] is None, "not evaluated yet"
    assert call("eval", name, *sampled)[0] == 0
    (path,) = {json.loads(call("trace", name, *sampled, "--json")[1])["shown"] for _ in range(2)}
    measured = read_measures(read_evaluation(Path(path).parent))[0].latents
    assert measured is not None
    row = next(row for row in measured.rows if measured.get(row, 2))
    kept = StoredTrace.open(Path(found["folder"])).get(row // 2, row % 2)
    assert [step.entropy for step in measured.get(row, 2)] == [round(float(one), 2) for one in kept.entropy]
    assert found["num_latents"] == StoredTrace.open(Path(found["folder"])).num_latents
    code, out, _ = call("inspect", name, *where)
    assert code == 0
    assert "stored trace" in out
    assert "stored trace" in call("inspect", name, *sampled)[1]
    shown_json = json.loads(call("inspect", name, *where, "--question", "what?", "--json")[1])
    assert shown_json["gold"] is None
    code, out, err = call("inspect", name, *where, "--question", "what?", "--index", "1")
    assert (code, out) == (2, "")
    assert err == "error: --question and --index name two questions; give one of them\n"
    code, out, err = call("trace", str(run.folder))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: run {run.folder.name} takes no latent steps (method 'cot')")
    assert call("inspect", str(run.folder), "--index", "0")[0] == 0


def test_shards_of_a_trace_are_the_files_of_a_whole_one(latent_run: Run) -> None:
    job = EvalJob.of(latent_run, "synth")
    whole = {path.name: path.read_bytes() for path in trace(job).iterdir() if path.is_file() and path.name != ".lock"}
    shutil.rmtree(job.folder)
    for number, lost in ((3, [1, 2]), (1, [2]), (2, [])):
        folder = trace(job, Shard(number, 3))
        assert lost_shards(job, Shard(1, 3)) == [Shard(other, 3) for other in lost]
        assert (folder / TRACE_HEADER).exists() == (not lost)
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
    assert found == whole
    assert not (folder / SHARDS).exists()


def test_a_shard_of_a_trace_has_one_owner(latent_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    job = EvalJob.of(latent_run, "synth")
    with owned(job.folder / TRACE, Shard(1, 2)):
        with pytest.raises(ValueError, match="1-of-2 is being written by process"):
            trace(job, Shard(1, 2))
        with pytest.raises(ValueError, match="1-of-2 is being written by another process"):
            trace(job)
        with pytest.raises(ValueError, match="holds part 1/2, which does not join with parts of 3"):
            trace(job, Shard(2, 3))
    assert main(["trace", str(latent_run.folder), "--shard", "9/8"]) == 2
    assert "--shard must be I/N" in capsys.readouterr().err
    assert main(["trace", str(latent_run.folder), "--shard", "1/2"]) == 0
    assert "part 1/2 is done, open are 2/2" in capsys.readouterr().out

"""Reliance: what is fed, what it is paired with, what is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from latbench.cli import main
from latbench.decoding.loop import Prompt
from latbench.decoding.rule import StepRule
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.records import append_records, read_evaluation, read_manifest, read_records
from latbench.evaluation.shards import Shard, owned
from latbench.evaluation.statistics import mcnemar_exact
from latbench.measures.measure_files import RELIANCE, RelianceFile, effects, read_measure
from latbench.measures.parallelism import parallelism
from latbench.measures.reliance import PARTS, Work, donors, reliance
from latbench.measures.trace import trace
from latbench.method import Method
from latbench.runs.run import Run
from latbench.task import Status
from tests.measured_runs import job_of


def test_interventions_are_paired_with_the_records_and_kept(coconut: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(coconut)
    path, found = reliance(job, ["zeros", "noise", "cut1", "zeros"])
    assert path == job.folder / RELIANCE
    assert list(found.replaced) == ["zeros", "noise", "cut1"]
    statuses = [record.status for record in read_evaluation(path.parent).records]
    assert found.untouched == "".join(
        {"correct": "c", "incorrect": "i", "no_answer": "n", "timeout": "t"}[s] for s in statuses
    )
    before = path.read_bytes()
    monkeypatch.setattr(Method, "generate", lambda *_, **__: pytest.fail("everything is on file"))
    assert reliance(job, ["noise", "zeros"])[1] == found
    assert path.read_bytes() == before
    monkeypatch.undo()
    more = reliance(job, ["other"])[1]
    assert list(more.replaced) == ["zeros", "noise", "cut1", "other"]
    assert {**more.replaced} == {**found.replaced, "other": more.replaced["other"]}


def test_a_cut_beyond_every_thought_is_left_out_and_a_longer_batch_changes_nothing(coconut: Run) -> None:
    job = job_of(coconut)
    (most,) = {record.num_latents for record in read_evaluation(job.folder).records}
    found = reliance(job, [f"cut{most}", f"cut{most - 1}", "noise"])[1]
    assert list(found.replaced) == [f"cut{most - 1}", "noise"]
    (job.folder / RELIANCE).unlink()
    again = reliance(job_of(coconut, changes={"generate.batch_size": 3}), ["noise", f"cut{most - 1}"])[1]
    assert again.replaced == found.replaced


def test_what_is_fed_are_zeros_noise_and_the_latents_of_others(coconut: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[torch.Tensor] = []
    own: dict[str, torch.Tensor] = {}
    real = Method.generate

    def spy(self: Method[Any], prompts: list[Prompt], config: Any, **options: Any) -> Any:
        answers = real(self, prompts, config, **{**options, "trace": True})
        fed.extend(answer.trace.embeds for answer in answers if answer.trace is not None)
        return answers

    job = job_of(coconut)
    examples = job.examples
    for example in examples:
        (answer,) = coconut.method.generate(
            [Prompt(id=example.id, text=example.question)], job.settings.generate, trace=True
        )
        assert answer.trace is not None
        own[example.id] = answer.trace.embeds
    monkeypatch.setattr(Method, "generate", spy)
    reliance(job, ["zeros"])
    assert len(fed) == 20
    assert not any(row.any() for row in fed)
    fed.clear()
    reliance(job, ["noise"])
    for row, example in zip(fed, examples, strict=True):
        torch.testing.assert_close(row.norm(dim=-1), own[example.id].norm(dim=-1), rtol=1e-2, atol=1e-3)
        assert not torch.allclose(row, own[example.id], atol=1e-2)
    fed.clear()
    reliance(job, ["other"])
    givers = []
    for row, example in zip(fed, examples, strict=True):
        near = {name: float((row - latents).abs().max()) for name, latents in own.items()}
        givers.append(min(near, key=near.__getitem__))
        assert near[givers[-1]] < 1e-2
        assert givers[-1] != example.id
    assert sorted(givers) == sorted(own)


def test_every_question_gives_its_latents_to_another_once() -> None:
    found = donors([0, 2, 3, 7, 9], "key")
    assert sorted(found) == sorted(found.values()) == [0, 2, 3, 7, 9]
    assert all(place != donor for place, donor in found.items())
    assert found == donors([0, 2, 3, 7, 9], "key")
    assert donors([4], "key") == {}


def test_effects_are_the_paired_test_of_the_verdicts(coconut: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(coconut)
    found = reliance(job, ["zeros"])[1]
    object.__setattr__(found, "untouched", "cccccccccc" + "iiiiiiiiin")
    object.__setattr__(found, "replaced", {"zeros": "cciiiiiint" + "ciiiiiiiii"})
    (effect,) = effects(found)
    assert (effect.lost, effect.gained, effect.n) == (8, 1, 20)
    assert effect.p_value == mcnemar_exact(8, 1)
    assert effect.accuracy.value == 0.15
    assert effect.change.value == pytest.approx(-0.35)


def test_an_unknown_intervention_and_an_explicit_run_are_refused(coconut: Run, run: Run) -> None:
    for name in ("ones", "cut", "cut-1", "cut01"):
        with pytest.raises(ValueError, match=rf"unknown intervention '{name}'; choose among zeros"):
            reliance(job_of(coconut), [name])
    evaluate(job_of(run))
    with pytest.raises(ValueError, match="no complete trace"):
        reliance(job_of(run))


def test_latent_steps_that_a_rule_of_its_own_takes_are_not_said_to_be_none(
    coconut: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(coconut.method), "rule", lambda method, _: StepRule(method.backbone))
    with pytest.raises(ValueError, match="method 'coconut' takes its latent steps by a rule of its own"):
        reliance(job_of(coconut), ["zeros"])


def test_other_records_make_other_files(coconut: Run) -> None:
    """A measure of answers that are no longer there is begun anew, and not shown."""
    job = job_of(coconut)
    path, _ = reliance(job, ["zeros"])
    records, _ = read_records(path.parent / "records.jsonl")
    (path.parent / "records.jsonl").unlink()
    flipped: dict[Status, Status] = {"correct": "incorrect"}

    append_records(
        path.parent / "records.jsonl", [replace(r, status=flipped.get(r.status, "correct")) for r in records]
    )
    assert list(reliance(job, ["cut0"])[1].replaced) == ["cut0"]


def test_what_was_measured_before_a_failure_is_kept(coconut: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job, real = job_of(coconut), Work._chunk

    def fails_late(self: Work, name: str, places: Any) -> str:
        if name == "noise" and places[0] > 0:
            raise OSError("no more power")
        return real(self, name, places)

    monkeypatch.setattr(Work, "_chunk", fails_late)
    with pytest.raises(OSError, match="power"):
        reliance(job, ["cut1", "noise", "zeros"])
    monkeypatch.undo()
    folder = job.folder
    found = read_measure(folder, RelianceFile, read_manifest(folder))
    assert found is not None
    assert list(found.replaced) == ["cut1"]
    whole = reliance(job, ["cut1", "noise"])[1]
    (folder / RELIANCE).unlink()
    assert reliance(job, ["cut1", "noise"])[1] == whole


def test_of_several_samples_the_first_is_looked_at(coconut: Run) -> None:
    job = job_of(coconut, limit=5, changes={"generate.samples": 2, "generate.temperature": 1.0})
    evaluate(job)
    trace(job)
    found = reliance(job, ["zeros", "other"])[1]
    assert [len(letters) for letters in (found.untouched, *found.replaced.values())] == [5, 5, 5]
    first = [record for record in read_evaluation(job.folder).records if record.sample == 0]
    assert found.num_latents == sum(record.num_latents for record in first)
    assert parallelism(job)[1].num_latents == found.num_latents


def test_shards_of_reliance_join_to_the_bytes_of_a_whole_one(coconut: Run, capsys: pytest.CaptureFixture[str]) -> None:
    job, names = job_of(coconut), ["zeros", "other", "cut1"]
    path, _ = reliance(job, names)
    whole = path.read_bytes()
    path.unlink()
    assert reliance(job, names[:2], Shard(3, 3))[1] is None
    assert reliance(job, names, Shard(2, 3))[1] is None
    with pytest.raises(ValueError, match=r"parts 1/3, 3/3 are missing .* run reliance with --shard 1/3"):
        reliance(job, names)
    arguments = ["reliance", str(coconut.folder), "--interventions", ",".join(names), "--shard"]
    assert main([*arguments, "1/3"]) == 0
    assert "part 1/3 is done, open are 3/3" in capsys.readouterr().out
    assert not path.exists(), "part 3/3 lacks an intervention"
    _, joined = reliance(job, names, Shard(3, 3))
    assert joined is not None
    assert path.read_bytes() == whole
    assert not (job.folder / PARTS).exists()


def test_a_shard_of_reliance_has_one_owner(coconut: Run) -> None:
    job = job_of(coconut)
    with (
        owned(job.folder / PARTS, Shard(1, 2)),
        pytest.raises(ValueError, match="1-of-2 is being written by process"),
    ):
        reliance(job, ["zeros"], Shard(1, 2))

"""Compression and parallelism of traced runs, known graphs, and what the tables show of a measure."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import fsum, inf
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import pdist

from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.records import MANIFEST, TRACE, read_evaluation, read_records
from latbench.measures.compression import Steps, path_parallelism
from latbench.measures.latents import StoredTrace
from latbench.measures.measure_files import PARALLELISM, read_measures
from latbench.measures.parallelism import _Answer, _distances, parallelism
from latbench.measures.trace import trace
from latbench.model.backbone import Backbone
from latbench.report.leaderboard import leaderboard
from latbench.runs.run import Run
from latbench.task import Example
from methods.latent_sft import LatentSFT
from methods.latent_sft.sequences import encoder_tokens
from tasks.synth import Synth, SynthConfig
from tests.measured_runs import call, job_of
from tests.methods.latent_sft.latent_sft_cases import superposition


def with_encoder(run: Run) -> LatentSFT:
    """The run's method with its encoder."""
    method = replace(run, auxiliary=True).method
    assert isinstance(method, LatentSFT)
    return method


def test_hidden_states_are_read_through_the_head_and_mixtures_as_they_are(runs: dict[str, Run]) -> None:
    path, found = parallelism(job_of(runs["coconut"]))
    assert path == job_of(runs["coconut"]).folder / PARALLELISM
    assert (found.read_through, found.vocab, found.top_k) == ("LM head", 297, 50)
    assert [rate.k for rate in found.ecr] == [1, 5, 10, 50]
    assert (found.label_ecr, found.label_tokens_per_latent) == ([], None)
    assert found.num_latents == sum(record.num_latents for record in read_records(path.parent / "records.jsonl")[0])
    gold = [record.gold_chain_length for record in read_records(path.parent / "records.jsonl")[0]]
    assert found.tokens_per_latent == pytest.approx(sum(gold) / found.num_latents)
    assert found.between_latents is not None
    assert found.from_centre is not None
    traces = StoredTrace.open(path.parent / TRACE)
    centre = runs["coconut"].method.backbone.model.get_input_embeddings().weight.detach().mean(0)
    fed = [torch.from_numpy(traces.get(index).embeds) for index in range(traces.num_questions)]
    expected = torch.stack([(embeds - centre).norm(dim=-1).mean() for embeds in fed]).mean()
    assert found.from_centre.value == pytest.approx(float(expected), rel=1e-4)
    assert found.between_latents.value == pytest.approx(
        fsum(float(pdist(one).mean()) for one in fed) / len(fed), rel=1e-4
    )
    assert found.paths is not None
    assert found.paths.source == "task synth"
    assert 2 <= found.paths.mean_paths <= found.paths.max_paths <= found.paths.cap == 16
    assert 1 <= found.paths.n_eff.value <= found.paths.max_paths
    mixed = parallelism(job_of(runs["latent_sft"]))[1]
    assert mixed.read_through == "mixture"
    assert [rate.k for rate in mixed.label_ecr] == [1, 5]  # it mixes eight entries
    assert mixed.label_tokens_per_latent == pytest.approx(2, abs=0.2)
    assert found.label_distance == []
    assert 0 < min(mixed.label_distance) <= max(mixed.label_distance) <= 1


def test_labels_are_the_encoders_mixtures_of_the_true_segments(runs: dict[str, Run]) -> None:
    method = with_encoder(runs["latent_sft"])
    examples = job_of(runs["latent_sft"]).examples[:3]
    empty = replace(examples[0], id="empty", steps=())
    *labels, nothing = method.label_latents([*examples, empty])
    assert nothing is None
    for example, label in zip(examples, labels, strict=True):
        assert label is not None
        pieces = method.backbone.layout.encode(example)
        assert label.cuts == [*range(0, len(pieces.steps), 2), len(pieces.steps)]
        ids, weights = superposition(method.latents(encoder_tokens([pieces], 2)))
        torch.testing.assert_close(label.weights, weights.float(), atol=1e-6, rtol=1e-4)
        assert torch.equal(label.ids, ids)
    assert runs["coconut"].method.label_latents(examples) == [None] * 3
    assert runs["latent_sft"].method.label_latents(examples) == [None] * 3, "the encoder is loaded on request"


def test_labels_of_other_segments_are_what_the_encoder_makes_of_these(runs: dict[str, Run]) -> None:
    method = with_encoder(runs["latent_sft"])
    example = job_of(runs["latent_sft"]).examples[0]
    pieces = method.backbone.layout.encode(example)
    cuts = [0, 1, 4, len(pieces.steps)]
    (label,) = method.label_latents([example], [cuts])
    own = method.latents(encoder_tokens([pieces], 2, [cuts]))
    assert label is not None
    assert label.cuts == cuts
    torch.testing.assert_close(label.weights, superposition(own)[1].float(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(label.embeds, own.embeds.float(), atol=1e-6, rtol=1e-4)
    (usual,) = method.label_latents([example])
    assert usual is not None
    (same,) = method.label_latents([example], [usual.cuts])
    assert same is not None
    assert torch.equal(same.weights, usual.weights)
    (too_long,) = method.label_latents([replace(example, steps=example.steps * 2000)], [[0, 5]])
    assert too_long is None


def test_n_eff_with_the_encoders_latents_as_references(runs: dict[str, Run]) -> None:
    """Step by step for one question; a run without an encoder has no such figure, in the file or in the table."""
    run = runs["latent_sft"]
    job = job_of(run)
    found = parallelism(job)[1]
    assert found.paths is not None
    assert found.label_references is not None
    assert found.label_references.n_eff_random == found.paths.n_eff_random, "the same matchings, whatever they match"
    assert found.label_references.mean_paths == found.paths.mean_paths
    assert parallelism(job_of(runs["coconut"]))[1].label_references is None

    method = with_encoder(run)
    traces = StoredTrace.open(job.folder / TRACE)
    task, examples = job.task, job.examples
    values = []
    for index, example in enumerate(examples):
        trace = traces.get(index)
        paths = [example.steps, *(path for path in task.paths(example) if path != example.steps)][:16]
        if len(paths) < 2 or not len(trace.ids):
            continue
        steps, pairs = Steps(trace.ids, trace.weights, trace.embeds), []
        for path in paths:
            chain = method.backbone.layout.steps(path)
            num = min(len(steps), len(chain))
            cuts = [part * len(chain) // num for part in range(num + 1)]
            pieces = method.backbone.layout.encode(replace(example, steps=tuple(path)))
            pairs.append((chain, method.latents(encoder_tokens([pieces], 2, [cuts])).embeds.detach().float().numpy()))
        values.append(path_parallelism(steps, pairs, "", top_k=found.label_references.top_k).n_eff)
    assert found.label_references.num_questions == len(values)
    assert found.label_references.n_eff.value == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_the_same_measure_twice_is_the_same_file_and_another_seed_of_draws_another(coconut: Run) -> None:
    path, found = parallelism(job_of(coconut))
    before = path.read_bytes()
    assert parallelism(job_of(coconut))[0].read_bytes() == before
    capped = parallelism(job_of(coconut), max_paths=2)[1]
    assert capped.paths is not None
    assert found.paths is not None
    assert capped.paths.max_paths == 2
    assert capped.paths.num_questions == found.paths.num_questions
    assert capped.ecr == found.ecr


def test_the_graph_tells_a_chain_in_one_order_from_a_superposition_and_n_eff_does_not(
    coconut: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latents that are the gold chain: matching finds any order of its steps, the graph sees one."""
    from latbench.measures import parallelism as module

    examples = job_of(coconut).examples
    layout = coconut.method.backbone.layout
    chains = iter([layout.steps(example.steps) for example in examples])

    def one_hot(_: Any) -> Steps:
        ids = torch.tensor(next(chains))
        return Steps(
            ids[:, None].numpy(), torch.ones(len(ids), 1).numpy(), coconut.method.backbone.embed(ids).detach().numpy()
        )

    monkeypatch.setattr(module, "_steps", one_hot)
    found = parallelism(job_of(coconut))[1]
    assert (found.ecr[0].value.value, found.tokens_per_latent) == (1, 1)
    assert found.ecr[0].chance < found.ecr[0].chance_in_place < 1
    assert found.graph is not None
    assert (found.graph.settled, found.graph.early, found.graph.reversed, found.graph.gold_order) == (1, 0, 0, 1)
    assert found.graph.share_parallel is not None
    assert found.graph.share_parallel.value == 0, "an explicit chain has one order"
    assert found.paths is not None
    assert found.paths.n_eff.value == pytest.approx(found.paths.mean_paths), "all paths are orders of the same steps"


def test_tasks_without_known_paths_or_graphs_say_so(run: Run) -> None:
    from tasks.gsm8k import Gsm8k

    task = Gsm8k.__new__(Gsm8k)
    example = Example(id="1", question="?", steps=("a",), answer="1")
    assert (task.paths(example), task.graph(example)) == ([], [])


def test_the_graph_of_synth_is_that_of_its_steps() -> None:
    for names in (True, False):
        task = Synth(SynthConfig(step_names=names, num_test=30))
        for example in task.load("test"):
            nodes = task.graph(example)
            assert Counter(node.step for node in nodes) == Counter(example.steps)
            assert nodes[-1].value == example.answer
            for node in nodes:
                assert node.step.endswith(f"={node.value}>>")
                assert all(f"{nodes[j].value}" in node.step for j in node.needs)
            assert example.steps in task.paths(example)


def test_a_missing_trace_is_one_sentence_that_says_what_to_run(
    coconut: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(coconut.folder)
    code, out, err = call(capsys, "parallelism", folder, "--limit", "3")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"make it with `latbench trace {folder}` and the same options" in err
    shutil.rmtree(job_of(coconut).folder / "trace")
    code, out, err = call(capsys, "reliance", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "make one with `latbench trace`" in err
    code, out, err = call(capsys, "reliance", folder, "--limit", "3")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"`latbench eval`, or name one of its evaluations as RUN: {job_of(coconut).folder}" in err


def test_the_leaderboard_shows_what_was_measured_and_a_dash_for_what_was_not(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    top = runs["coconut"].folder.parent
    plain = leaderboard([top], ["md", "csv"]).text_by_format
    assert "Compression and parallelism" not in plain["md"]
    code, out, err = call(capsys, "parallelism", str(runs["coconut"].folder))
    assert code == 0, err
    assert "ECR@50" in out
    assert out.count("LM head") == 2
    assert err.startswith("written: ")
    code, out, err = call(
        capsys, "reliance", str(runs["latent_sft"].folder), "--interventions", "zeros, cut1", "--json"
    )
    assert code == 0, err
    assert [effect["name"] for effect in json.loads(out)["effects"]] == ["zeros", "cut1"]
    board = leaderboard([top], ["md", "csv"])
    assert board.notices == ()
    tables = board.text_by_format["md"]
    measured = tables[tables.index("Compression and parallelism") :]
    assert measured.count("| coconut") == 2  # and its known graph
    assert measured.count("| latent_sft") == 2  # two interventions
    assert board.text_by_format["csv"] == plain["csv"]
    assert parallelism(job_of(runs["latent_sft"]))[1].label_ecr
    line = next(x for x in leaderboard([top]).text_by_format["md"].splitlines() if "| labels" in x)
    assert line.split("|")[-2].strip() == "–", "labels have no paths"


def test_tables_of_measures_need_no_torch(coconut: Run) -> None:
    parallelism(job_of(coconut))
    code = (
        "import sys\nfrom pathlib import Path\nfrom latbench.report.leaderboard import leaderboard\n"
        f"text = leaderboard([Path({str(coconut.folder)!r})]).text_by_format['md']\n"
        "print('Compression and parallelism' in text, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"


def test_a_measure_of_another_run_or_a_damaged_one_is_named_and_not_shown(runs: dict[str, Run]) -> None:
    top = runs["coconut"].folder.parent
    path, _ = parallelism(job_of(runs["coconut"]))
    other = job_of(runs["latent_sft"]).folder
    shutil.copy(path, other / PARALLELISM)
    path.write_text(path.read_text()[:100])
    board = leaderboard([top])
    assert "Compression and parallelism" not in board.text_by_format["md"]
    assert len(board.notices) == 2
    damaged, foreign = sorted(board.notices, key=lambda text: "another" in text)
    assert damaged.startswith(f"not shown: {path} cannot be read")
    assert "is of another run" in foreign
    assert foreign.endswith("remove it, or measure again with `latbench parallelism`")
    assert (other / MANIFEST).exists()


def test_a_single_answer_leaves_distances_without_bound_and_its_file_can_be_read(coconut: Run) -> None:
    job = job_of(coconut, limit=1)
    evaluate(job)
    trace(job)
    path, found = parallelism(job)
    assert found.between_latents is not None
    assert found.between_latents.high == inf
    assert "Infinity" not in path.read_text()
    measures, notices = read_measures(read_evaluation(job.folder))
    assert (measures.parallelism, notices) == (found, [])


@pytest.mark.parametrize("name", ["llama", "gemma3"])  # the latter scales what its table holds
@torch.no_grad()
def test_the_centre_of_the_vocabulary_is_that_of_what_is_fed(name: str, backbone_of: Callable[..., Backbone]) -> None:
    backbone = backbone_of(name)
    every = backbone.embed(torch.arange(len(backbone.model.get_input_embeddings().weight)))
    fed = Steps(np.zeros((2, 0), dtype=np.int64), np.zeros((2, 0)), every[[5, 9]].numpy())
    answer = _Answer(Example(id="a", question="", steps=(), answer=""), fed)
    found = _distances([answer], backbone)["from_centre"]
    assert found is not None
    assert found.value == pytest.approx(float((every[[5, 9]] - every.mean(0)).norm(dim=-1).mean()), rel=1e-5)

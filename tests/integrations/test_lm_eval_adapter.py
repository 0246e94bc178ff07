"""A run in lm-eval answers as lm-eval's own model and as `latbench eval`; our checker and tasks work in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tokenizers.processors import TemplateProcessing

import latbench
from latbench import integrations
from latbench.answers.extract import AnswerKind
from latbench.cli import main
from latbench.config import GenerateConfig
from latbench.integrations.likelihood import after_thinking
from latbench.integrations.lm_eval_adapter import LatbenchLM
from latbench.integrations.lm_eval_tasks import examples, latbench_correct, own_data_task
from latbench.model.layout import Layout
from latbench.model.tiny import PAD, tiny_tokenizer
from latbench.runs.run import CHECKPOINT, Run

HERE = Path(__file__).parent
QUESTIONS = [json.loads(line) for line in (HERE / "questions.jsonl").read_text().splitlines()]
OURS = HERE.parents[1] / "tasks" / "lm_eval" / "synth.yaml"


def local(name: str, folder: Path) -> dict[str, Any]:
    """A task of this folder, over the questions beside it."""
    data = {"data_files": {"test": str(HERE / "questions.jsonl")}, "cache_dir": str(folder)}
    return {**load_yaml(HERE / f"{name}.yaml"), "dataset_kwargs": data}


def results(lm: LM, task: dict[str, Any], **metadata: Any) -> tuple[dict[str, Any], list[Any]]:
    """Metrics of a task, and what the model returned for each question."""
    loaded = TaskManager(include_defaults=False, metadata=metadata).load([task])
    loaded["tasks"][task["task"]].set_fewshot_seed(0)
    done = lm_evaluate(lm, loaded, bootstrap_iters=0)
    metrics = {key: value for key, value in done["results"][task["task"]].items() if not key.startswith("alias")}
    return metrics, [sample["resps"] for sample in done["samples"][task["task"]]]


def numbers(responses: list[Any]) -> list[float]:
    return [float(score) for choices in responses for ((score, _),) in choices]


def generation(context: str, name: str = "t", **settings: Any) -> Instance:
    return Instance("generate_until", {}, (context, {"until": [], **settings}), 0, (name, 0, 1))


@pytest.fixture
def hf(explicit: Run) -> HFLM:
    """lm-eval's own model over the run's checkpoint."""
    return HFLM(str(explicit.folder / CHECKPOINT), device="cpu", dtype="float32", batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_raw_generations_equal_those_of_hf(explicit: Run, hf: HFLM, batch_size: int, tmp_path: Path) -> None:
    ours = LatbenchLM(explicit.folder, raw=True, batch_size=batch_size)
    task = local("generation", tmp_path)
    found, expected = results(ours, task), results(hf, task)
    assert found == expected
    texts = [text for ((text,),) in found[1]]
    assert len(set(texts)) > 2
    assert not any("\n" in text or "7" in text for text in texts)


@pytest.mark.parametrize("name", ["choice", "rolling"])
def test_log_likelihoods_equal_those_of_hf(explicit: Run, hf: HFLM, name: str, tmp_path: Path) -> None:
    ours = LatbenchLM(explicit.folder, batch_size=3)
    assert not ours.think  # as an explicit method
    task = local(name, tmp_path)
    (found, scores), (expected, wanted) = results(ours, task), results(hf, task)
    if name == "choice":
        assert found == expected
        assert [[flag for ((_, flag),) in row] for row in scores] == [[flag for ((_, flag),) in row] for row in wanted]
        assert numbers(scores) == pytest.approx(numbers(wanted), rel=1e-5)
    else:
        assert [float(score) for ((score,),) in scores] == pytest.approx([float(x) for ((x,),) in wanted], rel=1e-5)
    assert LatbenchLM(explicit.folder, raw=True).think is False


def test_a_latent_run_thinks_and_then_scores(latent: Run, tmp_path: Path) -> None:
    lm = LatbenchLM(latent.folder, batch_size="auto")
    assert lm.think
    _, responses = results(lm, {**local("choice", tmp_path), "num_fewshot": 0, "metric_list": [{"metric": "acc"}]})
    pairs = [(f"Question: {row['question']}\nAnswer: ", choice) for row in QUESTIONS for choice in row["choices"]]
    expected = [score.logprob for score in after_thinking(latent.method, pairs, latent.config.generate)]
    assert len(set(expected)) > len(QUESTIONS)
    assert numbers(responses) == pytest.approx(expected, rel=1e-5)
    plain = numbers(results(LatbenchLM(latent.folder, think=False, batch_size=2), local("choice", tmp_path))[1])
    assert plain != pytest.approx(numbers(responses), rel=1e-2)


@pytest.mark.parametrize("kind", ["explicit", "latent"])
def test_our_task_in_lm_eval_gives_the_answers_of_our_own_evaluation(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(kind)
    own = latbench.evaluate(run)
    lm = LatbenchLM(run.folder, batch_size="auto")
    metrics, responses = results(lm, load_yaml(OURS), run=str(run.folder), think=False)
    assert [text for ((text,),) in responses] == [record.text for record in own.records]
    correct = sum(record.status == "correct" for record in own.records)
    assert metrics["latbench_correct,none"] == pytest.approx(correct / len(own.records))
    info = lm.get_model_info()
    assert (info["method"], info["setting"], info["raw"]) == (run.config.method_name, run.config.setting, False)
    assert info["answers"]["latbench_synth"]["n"] == len(own.records)
    latents = sum(record.num_latents for record in own.records) / len(own.records)
    assert info["answers"]["latbench_synth"]["num_latents"] == pytest.approx(latents)
    assert (latents > 0) == (kind == "latent")


def test_a_task_of_ours_takes_settings_where_no_run_says_them() -> None:
    rows = examples("synth", settings={"num_test": 3, "min_ops": 1, "max_ops": 1}, version=1)["test"]
    expected = latbench.get_task("synth", num_test=3, min_ops=1, max_ops=1).load("test")
    assert rows["question"][:] == [example.question for example in expected]
    assert rows["answer"][:] == [example.answer for example in expected]
    with pytest.raises(ValueError, match=r"unknown key 'task.min_op'; did you mean 'task.min_ops'"):
        examples("synth", settings={"min_op": 3})


def test_requests_keep_their_order_and_repeats_draw_anew(latent: Run) -> None:
    lm = LatbenchLM(latent.folder, batch_size=2)
    contexts = [row["question"] for row in QUESTIONS]
    sampled: dict[str, Any] = {"do_sample": True, "temperature": 2.0}
    mixed = [generation(context, **(sampled if index % 2 else {})) for index, context in enumerate(contexts)]
    together = lm.generate_until(mixed)
    assert together == [lm.generate_until([request])[0] for request in mixed]
    repeats = lm.generate_until([generation(contexts[0], **sampled)] * 4)
    assert len(set(repeats)) > 1
    assert lm.generate_until([generation(contexts[0], **sampled)] * 4) == repeats


def test_a_request_says_how_it_is_decoded_and_the_run_says_the_rest(explicit: Run) -> None:
    lm = LatbenchLM(explicit.folder, batch_size=5)
    own = lm.decoding({"until": ["\n", ""], "do_sample": False, "temperature": 0.7})
    assert own == GenerateConfig(batch_size=5, chunk=8, max_new_tokens=12, max_latents=6, until=["\n"])
    asked = lm.decoding({"max_gen_toks": 3, "temperature": 0.5, "top_k": 4, "max_latents": 2, "num_beams": 1})
    assert (asked.max_new_tokens, asked.temperature, asked.top_k, asked.max_latents) == (3, 0.5, 4, 2)
    assert LatbenchLM(explicit.folder, raw=True).decoding({}).max_new_tokens == 256  # lm-eval's own
    with pytest.raises(ValueError, match=r"unknown key 'generation_kwargs.max_latent'; did you mean .*max_latents'"):
        lm.decoding({"max_latent": 2})
    with pytest.raises(ValueError, match=r"unknown key 'generation_kwargs\.num_beams'"):
        lm.decoding({"num_beams": 4})
    with pytest.raises(ValueError, match=r"generation_kwargs.top_p must be <= 1, got 1.5"):
        lm.decoding({"top_p": 1.5})


def test_what_a_task_leaves_open_is_as_in_the_runs_own_evaluation(explicit: Run) -> None:
    lm = LatbenchLM(explicit.folder)
    own = replace(explicit.config.generate, temperature=0.7, until=["9"])
    lm.run = replace(explicit, config=replace(explicit.config, generate=own))
    task = own_data_task(str(HERE / "questions.jsonl"))
    for said in (task["generation_kwargs"], load_yaml(OURS)["generation_kwargs"]):
        assert lm.decoding(said) == replace(own, batch_size=lm.batch_size)
    greedy = lm.decoding({"until": ["\n"], "do_sample": False})
    assert (greedy.temperature, greedy.until) == (0.0, ["\n"])


def test_a_text_begins_with_one_bos_whoever_writes_it(explicit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LatbenchLM(explicit.folder, raw=True)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": PAD})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{PAD} $A", special_tokens=[(PAD, bos)])
    monkeypatch.setattr(lm.backbone, "layout", Layout("default", tokenizer))
    monkeypatch.setattr(lm, "tokenizer", tokenizer)
    assert lm.tok_encode("n0?") == lm.tok_encode(f"{PAD}n0?") == [bos, *tiny_tokenizer().encode("n0?")]
    assert lm.tok_encode("n0?", add_special_tokens=False) == tiny_tokenizer().encode("n0?")
    assert lm.prefix_token_id == bos
    once, twice = lm.generate_until([generation("n0?", max_gen_toks=9), generation(f"{PAD}n0?", max_gen_toks=9)])
    assert once == twice


def test_a_prompt_that_is_too_long_gets_no_answer_and_is_counted(explicit: Run) -> None:
    lm = LatbenchLM(explicit.folder)
    assert lm.generate_until([generation("a" * 5000), generation("n0?")])[0] == ""
    assert lm.get_model_info()["answers"]["t"]["stop_reasons"]["prompt_too_long"] == 1


@pytest.mark.parametrize(
    ("gold", "text", "kind", "expected"),
    [
        ("9", "so it is 9", "number", 1.0),
        ("9", "so it is 8", "number", 0.0),
        ("9", "", "number", 0.0),
        (r"\frac12", r"the answer is \boxed{0.5}", "math", 1.0),
        ("B", "The answer is (B).", "choice", 1.0),
    ],
)
def test_our_checker_is_a_metric(gold: str, text: str, kind: AnswerKind, expected: float) -> None:
    assert latbench_correct([gold], [text], kind=kind) == expected


def test_an_unknown_kind_of_answers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown kind of answers 'numbr'; did you mean 'number'"):
        latbench_correct(["9"], ["9"], kind="numbr")  # type: ignore[arg-type]


def test_what_a_run_cannot_do_is_said_in_one_sentence(explicit: Run, latent: Run, tmp_path: Path) -> None:
    def refused(text: str, **arguments: Any) -> None:
        with pytest.raises(ValueError, match=text) as raised:
            LatbenchLM(**arguments)
        assert "\n" not in str(raised.value)

    refused("says no run; give run=FOLDER")
    refused("no run in .*nowhere", run="nowhere")
    refused("unknown key in --model_args: 'thinks'; did you mean 'think'", run=explicit.folder, thinks=True)
    refused("raw must be true or false, got 'yes'", run=explicit.folder, raw="yes")
    refused("give one of raw=true and think=true", run=latent.folder, raw=True, think=True)
    refused("--batch_size must be a positive number or auto, got 0", run=explicit.folder, batch_size=0)
    bare = tmp_path / explicit.folder.name
    bare.mkdir()
    (bare / "config.yaml").write_bytes((explicit.folder / "config.yaml").read_bytes())
    refused("is not trained to its end", run=bare)
    (bare / "train.json").write_bytes((explicit.folder / "train.json").read_bytes())
    refused("checkpoint", run=bare)
    lm = LatbenchLM(latent.folder)
    with pytest.raises(ValueError, match=r"task t scores a text about which nothing is asked .*think=false"):
        lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("a text",), 0, ("t", 0, 1))])
    with pytest.raises(ValueError, match=r"--apply_chat_template words a question .*raw=true"):
        lm.apply_chat_template([{"role": "user", "content": "a?"}])


def test_without_lm_eval_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(integrations, "lm_eval_adapter")
    monkeypatch.delitem(sys.modules, "latbench.integrations.lm_eval_adapter")
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["lm-eval", "--help"]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == [
        "error: lm-evaluation-harness is not installed; run `pip install 'latbench[lm-eval]'`"
    ]


def test_the_command_line_is_that_of_lm_eval_after_our_own_keys(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv)
    for words in (["lm-eval", "run", "--help"], ["lm-eval", "--help"]):
        assert main(words) == 0
        ours, theirs = capsys.readouterr().out.split("usage: lm-eval", 1)
        for key in ("run=RUN ", "raw=true ", "think=true ", "latents=false ", "model=NAME "):
            assert f"\n  {key}" in ours
        assert "--model_args" in theirs
    assert main(["lm-eval", "run", "--no_such_option", "1"]) == 2
    assert sys.argv == before


@pytest.mark.slow  # starts a Python with lm-eval
def test_one_line_registers_the_model_for_python_and_samples_hold_the_thought(latent: Run, tmp_path: Path) -> None:
    page = (Path(latbench.__file__).parents[1] / "docs" / "lm_eval.md").read_text(encoding="utf-8")
    example, of_own_data = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    line = "import latbench.integrations.lm_eval_adapter"
    assert line in example.splitlines()
    assert "own_data_task" in of_own_data
    code = f"""
import json, sys
{line}
import lm_eval
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
run, task, out = sys.argv[1:]
tracker = EvaluationTracker(output_path=out)
found = lm_eval.simple_evaluate(
    model="latbench", model_args={{"run": run}}, tasks=[load_yaml(task)], batch_size="auto", limit=3, bootstrap_iters=0,
    task_manager=TaskManager(include_defaults=False, metadata={{"run": run}}), evaluation_tracker=tracker,
)
tracker.save_results_aggregated(results=found, samples=found["samples"])
tracker.save_results_samples(task_name="latbench_synth", samples=found["samples"]["latbench_synth"])
"""
    call = [sys.executable, "-c", code, str(latent.folder), str(OURS), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert folder.name == latent.folder.name
    (results_file,) = folder.glob("results_*.json")
    written = json.loads(results_file.read_text(encoding="utf-8"))
    assert written["model_name"] == written["config"]["model_args"]["model"] == latent.folder.name
    assert written["config"]["batch_sizes"] == [latent.config.generate.batch_size]
    own = latbench.evaluate(latent)
    (samples_file,) = folder.glob("samples_*.jsonl")
    samples = list(map(json.loads, samples_file.read_text(encoding="utf-8").splitlines()))
    assert [sample["doc_id"] for sample in samples] == [0, 1, 2]
    for sample, record in zip(samples, own.records[:3], strict=True):
        (thought,) = sample["arguments"]["gen_args_0"]["arg_2"]
        assert (thought["num_latents"], thought["reasoning"]) == (record.num_latents, record.reasoning)
        assert thought["stop_reason"] == record.stop_reason
        assert len(thought["latents"]) == record.num_latents > 0
        for step in thought["latents"]:
            assert len(step["tokens"]) == 5
            assert 0 < sum(weight for _, weight in step["tokens"]) <= 1.01


def test_latents_of_logged_samples_can_be_left_out(explicit: Run, latent: Run) -> None:
    for lm in (LatbenchLM(explicit.folder), LatbenchLM(latent.folder, latents=False)):
        request = generation("n0?")
        lm.generate_until([request] * 2)
        assert [thought["latents"] for thought in request.args[2]] == [[], []]
        assert all(thought["num_latents"] == 0 for thought in request.args[2]) == (lm.run is explicit or not lm.think)
    with pytest.raises(ValueError, match=r"--model_args: latents must be true or false, got 'some'"):
        LatbenchLM(latent.folder, latents="some")  # type: ignore[arg-type]


@pytest.mark.slow  # lm-eval reads all its tasks
def test_a_whole_evaluation_from_the_command_line(
    latent: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["lm-eval", "--model", "latbench", "--tasks", str(OURS), "--limit", "4", "--output_path", str(tmp_path)]
    assert main([*call, "--batch_size", "auto", "--model_args", f"run={latent.folder}"]) == 0
    assert "latbench_correct" in capsys.readouterr().out
    (written,) = tmp_path.glob(f"{latent.folder.name}/results*.json")
    config = json.loads(written.read_text())["config"]
    assert config["run"] == str(latent.folder)
    assert config["answers"]["latbench_synth"]["n"] == 4
    assert main([*call, "--model_args", f"run={latent.folder},thinks=true"]) == 2
    assert "error: unknown key in --model_args: 'thinks'" in capsys.readouterr().err

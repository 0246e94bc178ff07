"""Any run as the model `latbench` of lm-evaluation-harness.

    latbench lm-eval --model latbench --model_args run=RUN[,KEY=VALUE...] --tasks ... --batch_size auto

`latbench lm-eval` is lm-eval's own command line with this model registered. lm-eval 0.4.13 looks for no plug-ins, so
that its own command `lm_eval` does not find the model; in Python one line registers it:

    import latbench.integrations.lm_eval_adapter
    lm_eval.simple_evaluate(model="latbench", model_args={"run": RUN}, tasks=[...], batch_size="auto")

Keys of --model_args:
  run=RUN        folder of a run, or its name under runs/
  raw=true       feed lm-eval's text as it is; all text that comes is the answer, as with lm-eval's own `hf`. A latent
                 method still takes its latent steps. false, the default: the context is the question, asked in the
                 run's own prompt (template, open marker, whatever its method adds); the run thinks as it was trained
                 to, and what follows its close marker is the answer that the task sees. Examples in the context
                 (--num_fewshot) become part of the question.
  think=true     of multiple choice: the run thinks about the context, and a choice is scored after the close marker;
                 false: a choice is scored right after the context as it is, which equals `hf`. By default true for
                 methods that begin with latent steps, unless raw=true. Tasks that score a text about which nothing is
                 asked (loglikelihood_rolling) need false.
  latents=false  leave out the top tokens of latent steps in logged samples, which takes time at every latent step
  model=NAME     the name under which lm-eval files results; the run's own name by default
  device=, batch_size=, trust_remote_code=   as lm-eval's options of these names

`--batch_size auto` takes the run's own `generate.batch_size`; lm-eval's default is 1. `until`, `max_gen_toks` (of
reasoning and answer together), `do_sample`, `temperature` and any key of `generate.*` come from a task's
`generation_kwargs` or from --gen_kwargs; the run's own settings where they say nothing, as an empty `until` does.
Random draws are keyed by the run's seed, the context and the repeat, so that neither batch nor --seed changes them.

Own data among the --tasks (a data file, a Hub id such as org/name or org/name:split, a YAML file that says `path`) are
asked and checked as `latbench eval` does it, with its options --columns, --kind and --prompt.

With --log_samples each sample of a task that generates has, as `arg_2` of its arguments, one entry for each answer:
the reasoning text, the numbers of latent steps and tokens, how the answer ended, and the top tokens of each latent
step.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from inspect import cleandoc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from latbench import registry
from latbench.config import ConfigError, GenerateConfig, tree
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import Mode
from latbench.integrations.likelihood import Likelihood, after_text, after_thinking
from latbench.integrations.lm_eval_tasks import run_of, with_own_data
from latbench.measures.shown_latents import MAX_STEPS, TOP, shown_steps
from latbench.model import chat_template
from latbench.util.progress import progress

RAW_TOKENS = 256  # lm-eval's `max_gen_toks` for a task that names none
WITHOUT_EFFECT = {"num_beams": 1, "repetition_penalty": 1}  # values at which a task may set what we do not have
KEYS = ("run", "raw", "think", "latents", "model", "batch_size", "device")
log = logging.getLogger(__name__)


def main(arguments: Sequence[str], settings: Mapping[str, Any] | None = None) -> None:
    """lm-eval's own command line, with the model `latbench` registered; its help comes after that of our keys.

    Args:
        arguments: of lm-eval's command line, whose `--tasks` may name own data.
        settings: of own data, `task.*` by dotted key.
    Raises: SystemExit: its parser's errors, and after its help.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"{cleandoc(__doc__)}\n")
    before = sys.argv
    with TemporaryDirectory() as folder:
        sys.argv = ["lm-eval", *with_own_data(arguments, Path(folder), settings)]  # the only place it reads them from
        try:
            cli_evaluate()
        finally:
            sys.argv = before


@register_model("latbench")
class LatbenchLM(TemplateLM):
    """A run as a model of lm-eval; see the module's docstring.

    Args:
        run: folder, or name under `runs/`.
        raw: see there.
        think: see there.
        latents: see there.
        model: name under which lm-eval files results; None: that of the run.
        batch_size: rows at once; "auto": the run's own.
        device: a CUDA device on a machine without one is the CPU; None: where the run was trained.
        max_batch_size: from lm-eval's own options; nothing here reads it.
        trust_remote_code: lm-eval's own option, of this call alone: run Python files that lie beside the run's model.
    Raises: ValueError: no such run, no checkpoint, or arguments that are unknown or do not fit together.
    """

    def __init__(
        self,
        run: Any = None,
        *,
        raw: bool = False,
        think: bool | None = None,
        latents: bool = True,
        model: str | None = None,
        batch_size: int | str = "auto",
        device: str | None = None,
        max_batch_size: int | None = None,
        trust_remote_code: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for key in unknown:
            raise registry.unknown("key in --model_args:", key, KEYS)
        if run is None:
            raise ValueError("--model_args says no run; give run=FOLDER, `latbench list runs` shows those at hand")
        for key, value in (("raw", raw), ("think", think), ("latents", latents)):
            if not isinstance(value, bool | None):
                raise ValueError(f"--model_args: {key} must be true or false, got {value!r}")
        if raw and think:
            raise ValueError("--model_args: a run thinks in its own prompt; give one of raw=true and think=true")
        has_cuda = torch.cuda.is_available()  # lm-eval's default is cuda:0 on any machine; its `hf` falls back too
        place = "cpu" if str(device).startswith("cuda") and not has_cuda else device
        self.run = run_of(run, place, trust_remote_code=bool(trust_remote_code))
        self.method = self.run.method
        self.backbone, self.tokenizer = self.method.backbone, self.method.backbone.tokenizer
        self.raw = raw
        self.name = str(model or self.run.folder.resolve().name)
        is_latent = self.method.rule(self.run.config.generate).start == Mode.LATENT
        self.latents = latents and is_latent
        self.think = is_latent and not raw if think is None else think
        self.batch_size = _batch_size(batch_size, self.run.config.generate.batch_size)
        self.batch_sizes = {0: self.batch_size}  # lm-eval stores and prints the values
        self.figures: dict[str, list[Generation]] = defaultdict(list)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> LatbenchLM:
        """The model of `--model_args`, which win over options of the same name.

        Args:
            arg_dict: lm-eval names the folder of its results after the key `model` here, and by chance without it; so
                the run's name is added.
            additional_config: lm-eval's options.
        """
        built = cls(**{**(additional_config or {}), **arg_dict})
        arg_dict.setdefault("model", built.name)
        return built

    # what lm-eval asks of a model with a tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        return self.backbone.layout.eos

    @property
    def prefix_token_id(self) -> int:
        """What a text is scored after where its context is empty."""
        return self.eot_token_id if self.tokenizer.bos_token_id is None else int(self.tokenizer.bos_token_id)

    @property
    def max_length(self) -> int:
        """Positions of the model."""
        return self.backbone.context

    @property
    def tokenizer_name(self) -> str:
        """Part of the key under which lm-eval keeps requests."""
        return str(self.run.folder)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; None: with the tokenizer's BOS, once."""
        if add_special_tokens is None:
            return self.backbone.encode(self._without_bos(string))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text. Raises: ValueError: the run's own prompt would word it a second time."""
        if not self.raw:
            raise ValueError(
                "--apply_chat_template words a question that the run's own prompt words already; "
                "leave it out, or feed lm-eval's text as it is with --model_args run=...,raw=true"
            )
        return chat_template.render(self.tokenizer, chat_history, answer=add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval stores beside its results: which run answered, how, and by task what that took on average."""
        return {
            "run": str(self.run.folder),
            "method": self.run.config.method_name,
            "backbone": self.backbone.name,
            "layout": self.backbone.layout.name,
            "setting": self.run.config.setting,
            "run_seed": self.run.config.seed,
            "raw": self.raw,
            "think": self.think,
            "answers": {task: _figures(answers) for task, answers in self.figures.items()},
        }

    # requests

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """See lm-eval; a prompt that does not fit the context is answered with nothing, and counted in the log."""
        repeats: Counter[tuple[str | None, str]] = Counter()
        groups: dict[str, list[tuple[int, Prompt]]] = defaultdict(list)
        for index, request in enumerate(requests):
            context, settings = request.args[:2]
            sample = repeats[request.task_name, context]
            repeats[request.task_name, context] += 1
            text = self._without_bos(context) if self.raw else context
            prompt = Prompt(id=context, text=text, sample=sample, raw=self.raw)
            groups[json.dumps(settings, sort_keys=True)].append((index, prompt))
        found: dict[int, Generation] = {}
        for settings, group in groups.items():
            config = self.decoding(json.loads(settings))
            for chunk in _chunks(group, config.chunk, "answers"):
                prompts = [prompt for _, prompt in chunk]
                answers = self.method.generate(prompts, config, seed=self.run.config.seed, trace=self.latents)
                for (index, _), answer in zip(chunk, answers, strict=True):
                    found[index] = answer
                    self.figures[str(requests[index].task_name)].append(answer)
                    self.cache_hook.add_partial("generate_until", requests[index].args[:2], answer.text)
        self._log_thoughts(requests, found)
        too_long = sum(answer.stop_reason == "prompt_too_long" for rows in self.figures.values() for answer in rows)
        if too_long:
            log.warning("%d prompts do not fit the context of %d and got no answer", too_long, self.max_length)
        return [found[index].text for index in range(len(requests))]

    def _log_thoughts(self, requests: Sequence[Instance], found: Mapping[int, Generation]) -> None:
        """Put into each request, which lm-eval logs with its sample, what came before the text of each answer.

        A request that is answered several times stands several times in the list; lm-eval hashes its first two
        arguments alone.
        """
        thoughts: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for index, request in enumerate(requests):
            thoughts[id(request)].append(_thought(found[index], self.tokenizer.decode))
        for request in requests:
            request.arguments = (*request.args[:2], thoughts[id(request)])

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See lm-eval."""
        if not self.think:
            return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))
        found: list[Likelihood] = []
        config = replace(self.run.config.generate, batch_size=self.batch_size)
        for chunk in _chunks(requests, config.chunk, "continuations"):
            scores = after_thinking(self.method, [request.args for request in chunk], config, seed=self.run.config.seed)
            for request, score in zip(chunk, scores, strict=True):
                self.cache_hook.add_partial("loglikelihood", request.args, score)
            found += scores
        return list(found)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """See lm-eval. Raises: ValueError: the run is to think, and there is nothing to think about."""
        if self.think:
            names = ", ".join(sorted({str(request.task_name) for request in requests}))
            raise ValueError(
                f"task {names} scores a text about which nothing is asked (loglikelihood_rolling), so there is nothing "
                "to think about; score it by the language model alone with --model_args run=...,think=false"
            )
        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            pairs = [make_disjoint_window(window) for window in windows]
            total = sum(score.logprob for score in after_text(self.backbone, pairs, batch_size=self.batch_size))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            totals.append(float(total))
        return totals

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        with progress("continuations", total=len(pairs)) as advance:
            scores = after_text(self.backbone, pairs, batch_size=self.batch_size, advance=advance)
        for (texts, _, _), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return list(scores)

    def decoding(self, generation_kwargs: Mapping[str, Any]) -> GenerateConfig:
        """`generate.*` of a request. Raises: ValueError: a key that is unknown, or a value out of range."""
        own = self.run.config.generate
        given = dict(normalize_gen_kwargs(dict(generation_kwargs), RAW_TOKENS if self.raw else own.max_new_tokens))
        says_how = {"do_sample", "temperature"} & generation_kwargs.keys()  # else lm-eval would take it for greedy
        if not given.pop("do_sample", False):
            given["temperature"] = 0.0 if says_how else own.temperature
        given["max_new_tokens"] = given.pop("max_gen_toks")
        given["until"] = [stop for stop in given["until"] if stop] or own.until  # lm-eval has no task without the key
        for key, value in WITHOUT_EFFECT.items():
            if given.get(key) == value:
                del given[key]
        settings = {**asdict(own), **given, "batch_size": self.batch_size}
        config, errors = tree.validate("generation_kwargs", GenerateConfig, settings)
        if errors:
            raise ConfigError(errors)
        assert isinstance(config, GenerateConfig)
        return config

    def _without_bos(self, text: str) -> str:
        """The text without a BOS at its start (chat templates write one) that the tokenizer would add once more."""
        bos = self.tokenizer.bos_token
        adds = bos is not None and self.backbone.encode("")[:1] == [self.tokenizer.bos_token_id]
        return text.removeprefix(str(bos)) if adds else text


def _batch_size(given: int | str, own: int) -> int:
    """Raises: ValueError: neither a positive number nor auto."""
    if str(given).startswith("auto"):
        return own
    if not str(given).isdecimal() or int(given) < 1:
        raise ValueError(f"--batch_size must be a positive number or auto, got {given!r}")
    return int(given)


def _chunks(items: Sequence[Any], size: int, what: str) -> Iterator[Sequence[Any]]:
    """The items, so many at a time, under a progress bar."""
    with progress(what, total=len(items)) as advance:
        for start in range(0, len(items), size):
            yield items[start : start + size]
            advance(len(items[start : start + size]))


def _thought(answer: Generation, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    """What a logged sample says of an answer beside its text."""
    counts = ("num_latents", "num_reasoning_tokens", "num_answer_tokens", "stop_reason", "closed", "reasoning")
    steps = [] if answer.trace is None else shown_steps(answer.trace, decode, TOP)[:MAX_STEPS]
    return {**{name: getattr(answer, name) for name in counts}, "latents": [asdict(step) for step in steps]}


def _figures(answers: Sequence[Generation]) -> dict[str, Any]:
    """Mean lengths of one task's answers, how many ended in which way, and how many never came to an answer."""
    counts = ("num_latents", "num_reasoning_tokens", "num_answer_tokens")
    known = {name: [count for answer in answers if (count := getattr(answer, name)) is not None] for name in counts}
    means = {name: sum(found) / len(found) if found else None for name, found in known.items()}
    reasons = Counter(answer.stop_reason for answer in answers)
    open_ended = sum(not answer.closed for answer in answers)
    return {"n": len(answers), **means, "not_closed": open_ended, "stop_reasons": dict(reasons)}

"""The one decoding loop: `decode` for generation, `unroll` for training, over the same rules.

Every row is in its own mode (LATENT, TEXT, DONE) and all are mixed freely in one batch. All bookkeeping is in tensors;
one small transfer per step says what happened. A finished row's slot goes to the next question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.actions import ActionRecorder, RowActions
from latbench.decoding.latent_trace import LatentTrace, TraceRecorder
from latbench.decoding.rule import Mode, RecordedLatents, RowState, Step, StepRule, close_marker, surely_none, widened
from latbench.decoding.sampling import row_keys
from latbench.model.backbone import Backbone, DecodeState
from latbench.model.batches import pad
from latbench.model.cache import SlotCache
from latbench.task import StopReason

RUNNING, EOS, STOP, LENGTH = range(4)
_REASONS: dict[int, StopReason] = {EOS: "eos", STOP: "stop", LENGTH: "length"}
ROOM = 128  # columns beyond the longest prompt that are allocated at once; the cache grows by itself
SHARED_TOKENS = 64  # that a prefix common to all prompts must save to be computed on its own
PADDING_CPU, PADDING_GPU = 64, 4096  # padding tokens that cost about as much as a prefill of their own


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question to answer.

    Args:
        id: of the question; keys the random draws.
        sample: number of the answer to it; keys them too.
        text: the task's prompt.
        raw: feed the text as it is, without template or markers; the whole output is the answer segment.
        ids: fed in place of what the method makes of the text; None: what it makes.
        seed: in place of the call's own; None: that of the call, as in the two below.
        until: texts that end the answer.
        max_new_tokens: where it is less than that of the call.
    """

    id: str
    text: str
    sample: int = 0
    raw: bool = False
    ids: tuple[int, ...] | None = None
    seed: int | None = None
    until: tuple[str, ...] | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What came out for one prompt.

    Args:
        text: the answer segment ("" where the close marker never came).
        reasoning: explicit reasoning text.
        closed: the answer segment was reached.
        num_latents: latent steps.
        num_reasoning_tokens: explicit tokens of the chain, without markers and marks of a method's own
            (`RowState.num_marks`).
        num_answer_tokens: tokens of the answer, without EOS.
        num_prompt_tokens: fed before. Reasoning tokens are None where a model without think tokens leaves their number
            unknown, see `written`.
        decode_steps: forward passes after the prompt, forced ids included.
        trace: of the latent steps, where asked for.
        actions: all steps, where asked for.
        capped: the thought was ended by `max_latents`.
    """

    text: str
    reasoning: str
    closed: bool
    num_latents: int
    num_reasoning_tokens: int | None
    num_answer_tokens: int
    num_prompt_tokens: int
    decode_steps: int
    stop_reason: StopReason
    trace: LatentTrace | None = None
    actions: RowActions | None = field(default=None, compare=False)
    capped: bool = field(default=False, compare=False)


@torch.inference_mode()
def decode(
    backbone: Backbone,
    prompt_ids: Sequence[Sequence[int]],
    prompts: Sequence[Prompt],
    rule: StepRule,
    config: GenerateConfig,
    *,
    seed: int = 0,
    trace: bool = False,
    actions: bool = False,
) -> list[Generation]:
    """Answers to all prompts, in order; at most `config.batch_size` rows at a time.

    Args:
        prompt_ids: ids fed before the first decision; where they end with the close marker the row starts in TEXT
            mode, whatever the rule. All that is emitted is the answer segment there, and where the prompt is raw or
            the layout has no close marker.
        seed: keys every random draw with the prompt's id and sample.
        trace: also return what each latent step mixed.
        actions: also return all steps, for reinforcement learning.
    Raises: ValueError: a backbone that checkpoints gradients in train mode.
    """
    recorder = TraceRecorder(config.trace_top_k) if trace else None
    steps = ActionRecorder(config.temperature) if actions else None
    numbered = dict(enumerate(prompt_ids)), dict(enumerate(prompts))
    return Loop(backbone, *numbered, rule, config, seed, recorder, steps).run()


def unroll(
    backbone: Backbone,
    state: DecodeState,
    rule: StepRule,
    *,
    rows: RowState | None = None,
    max_latents: int | None = None,
    record: RecordedLatents | None = None,
) -> DecodeState:
    """Take a rule's latent steps with gradients; the close marker and what follows are the caller's to `extend`.

    Args:
        state: after `backbone.prefill(batch.question)`; spent by the call.
        rows: of the rule, with the keys of its random draws; None: fresh rows in the rule's starting mode, without
            keys of their own.
        max_latents: steps per row after which a rule is stopped; None: the rule stops by itself.
        record: gets what each step fed, for a loss on the latents.
    Returns: the state after each row's last latent step.
    Raises: ValueError: the rule goes on to the end of the context.
    """
    rows = rows or RowState.fresh(torch.zeros_like(state.lengths), rule.start)
    rows.talking = False  # nothing is emitted
    while True:
        step = rule.step(state.hidden, state.logits, rows)
        if step.mode is None:
            break
        feeds = (rows.mode == Mode.LATENT) & (step.mode == Mode.LATENT)
        if max_latents is not None:
            feeds = feeds & (rows.num_latents < max_latents)
        rows.mode = torch.where(feeds, Mode.LATENT, Mode.DONE)
        if not feeds.any():
            break
        if int(state.lengths[feeds].max()) >= backbone.context:
            raise ValueError(
                f"{type(rule).__name__} took latent steps to the end of the context ({backbone.context} positions) "
                "without stopping; let it stop, or give unroll a max_latents"
            )
        if record is not None:
            record.fed.append(step.embeds)
            record.seen.append(state.hidden)
            record.took.append(feeds)
        rows.num_latents = rows.num_latents + feeds
        rows.steps = rows.steps + feeds
        state = backbone.step(state, step.embeds, active=feeds)
    if record is not None:
        record.after = state.hidden
    return state


@dataclass
class _Slots:
    """One row per slot: (slots,) or (slots, width) tensors."""

    question: Tensor  # index into the prompts, -1 idle
    lengths: Tensor  # tokens in the cache
    embeds: Tensor  # next input
    forced: Tensor  # ids still to be fed, -1 none
    tokens: Tensor  # emitted, without EOS
    num_tokens: Tensor
    limit: Tensor  # of emitted tokens
    recent: Tensor  # last ids fed, as many as the close marker has; -1 for a latent step
    recent_emitted: Tensor  # which of them were emitted rather than forced
    reasoning_end: Tensor  # index into tokens
    answer_start: Tensor
    capped: Tensor  # closed by the cap of latent steps
    stop: Tensor  # RUNNING or why not

    def keep(self, rows: Tensor) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name)[rows])

    def add(self, fresh: _Slots) -> None:
        """Append rows, which wait for no forced ids."""
        fresh.forced = widened(fresh.forced, self.forced.shape[1])
        for f in fields(self):
            setattr(self, f.name, torch.cat([getattr(self, f.name), getattr(fresh, f.name)]))


@dataclass
class Loop:
    """State of one `decode` call; `session.py` lets questions come while it runs.

    Args:
        backbone: that decodes.
        prompt_ids: token ids fed before the first decision, by number of the question.
        prompts: the questions by number.
        rule: that chooses the next input.
        config: of the decoding.
        seed: keys random draws.
        recorder: of latent steps; None: they are not traced.
        steps: of all steps; None: they are not kept.
        results: what is finished, by number of the question.
    """

    backbone: Backbone
    prompt_ids: dict[int, Sequence[int]]
    prompts: dict[int, Prompt]
    rule: StepRule
    config: GenerateConfig
    seed: int
    recorder: TraceRecorder | None
    steps: ActionRecorder | None
    results: dict[int, Generation] = field(default_factory=dict)

    def run(self) -> list[Generation]:
        fits = [index for index, ids in self.prompt_ids.items() if len(ids) <= self.backbone.context]
        # the longest prompt comes first; prompts of one length are prefilled together, equal ones once
        self.waiting = sorted(fits, key=lambda index: (len(self._ids(index)), self._ids(index), -index))
        self.idle = 0  # steps that free slots have sat out since the last refill
        self.stopping = any(map(self._until, fits))
        if fits:
            longest = len(self._ids(self.waiting[-1]))
            self._allocate(min(self.config.batch_size, len(fits)), longest)
            self._share_prefix()
            active = 0
            while active or self.waiting:
                self._refill_or_compact(active)
                active = self._advance()
            self._retire()
        num = len(self.prompts)
        traces = self.recorder.traces(num) if self.recorder else [None] * num
        actions = self.steps.actions(num) if self.steps else [None] * num
        return [self._result(index, *found) for index, found in enumerate(zip(traces, actions, strict=True))]

    def _allocate(self, num: int, longest: int) -> None:
        """Make slots for so many rows, whose longest prompt has so many tokens."""
        backbone, device = self.backbone, self.backbone.device
        config = self.config
        capacity = longest + min(config.max_new_tokens, ROOM)
        if config.compiled:  # one shape for most calls: of full batches, and a power of two that all lengths fit into
            num, most = config.batch_size, longest + config.max_new_tokens + config.max_latents
            capacity = 1 << min(most, backbone.context).bit_length()
        self.close = torch.tensor(backbone.layout.close, dtype=torch.long, device=device)
        self.eos = torch.tensor(backbone.eos_ids, device=device)
        self.cache = SlotCache(num, backbone.text_config.num_hidden_layers, capacity, fixed=config.compiled)
        self.slots = self._fresh_slots(num)
        self.rows = RowState.fresh(torch.zeros_like(self.slots.question), Mode.DONE)
        self.forcing = 0  # rows with forced ids waiting

    def _fresh_slots(self, num: int) -> _Slots:
        backbone, device = self.backbone, self.backbone.device

        def full(*width: int, value: int = 0) -> Tensor:
            return torch.full((num, *width), value, dtype=torch.long, device=device)

        width = len(self.close)
        return _Slots(
            question=full(value=-1),
            lengths=full(),
            embeds=torch.zeros(num, backbone.hidden_size, device=device, dtype=backbone.embed(full()).dtype),
            forced=full(max(width, 1), value=-1),
            tokens=full(self.config.max_new_tokens + 1),  # one to spare for what is not kept
            num_tokens=full(),
            limit=full(),
            recent=full(width, value=-1),
            recent_emitted=full(width).bool(),
            reasoning_end=full(),
            answer_start=full(),
            capped=full().bool(),
            stop=full(value=LENGTH),
        )

    # slots come and go

    def _refill_or_compact(self, active: int) -> None:
        """Give free slots to waiting questions, or shrink the batch when none wait.

        A prefill costs about a step, so free slots wait until they have sat out as many steps as there are slots. On a
        CPU a step of fewer rows costs less; elsewhere the batch shrinks by halves, as its shape would change; compiled
        steps keep their shape.
        """
        num = len(self.slots.stop)
        self.idle += num - active
        if self.waiting and (active == 0 or self.idle >= num):
            self._retire()
            slots = (self.slots.stop != RUNNING).nonzero()[: len(self.waiting), 0]
            self._admit(slots, [self.waiting.pop() for _ in range(len(slots))])
            self.idle = 0
        elif not self.waiting and 0 < active <= num - max(1, num // (8 if self.slots.stop.device.type == "cpu" else 2)):
            self._compact(active)

    def _compact(self, active: int) -> None:
        """Shrink the batch to the running rows, unless its shape is to stay."""
        if self.config.compiled:
            return
        self._retire()
        running = self.slots.stop == RUNNING
        rows = torch.arange(active, device=running.device)
        rows[~running[:active]] = running[active:].nonzero()[:, 0] + active
        self.slots.keep(rows)
        self.rows.keep(rows)
        self.cache.keep(rows)

    def _share_prefix(self) -> None:
        """Compute once what all prompts begin with: a system prompt, an instruction, examples."""
        ids = [self._ids(question)[:-1] for question in self.waiting]
        first, last = min(ids), max(ids)  # in lexicographic order: what these share, all share
        length = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        if length * (len(ids) - 1) >= SHARED_TOKENS:
            slot = torch.zeros(1, dtype=torch.long, device=self.backbone.device)
            self.backbone.fill(self.cache, pad([first[:length]]).to(self.backbone.device), slot)
            self.cache.share(0, length)

    def _admit(self, slots: Tensor, questions: list[int]) -> None:
        """Prefill all but the last prompt token; the last is the row's first step, so that one step serves all rows."""
        backbone, device, s = self.backbone, self.backbone.device, self.slots
        prompts = [self.prompts[q] for q in questions]
        ids = [self._ids(q) for q in questions]
        self._prefill(slots, [row[:-1] for row in ids])
        keys = torch.cat([row_keys(self._seed(p), [p.id], [p.sample]) for p in prompts]).to(device)
        closed = torch.tensor([self._is_closed(q) for q in questions], device=device)
        raw = torch.tensor([p.raw or not backbone.layout.close for p in prompts], device=device)
        s.question[slots] = torch.tensor(questions, device=device)
        s.lengths[slots] = torch.tensor([len(row) - 1 for row in ids], device=device)
        s.embeds[slots] = backbone.embed(torch.tensor([row[-1] for row in ids], device=device))
        s.forced[slots] = -1
        s.recent[slots] = -1
        for tensor in (s.num_tokens, s.reasoning_end, s.answer_start, s.capped):
            tensor[slots] = 0
        s.limit[slots] = torch.tensor([self._limit(p) for p in prompts], device=device)
        s.stop[slots] = RUNNING
        self.rows.restart(slots, keys, torch.where(closed, Mode.TEXT, self.rule.start), closed | raw, s.question[slots])
        self.rows.thinking |= self.rule.start == Mode.LATENT
        self.rows.talking = True  # until the next step has looked

    def _prefill(self, slots: Tensor, prompts: list[list[int]]) -> None:
        """Fill slots with prompts, which come by falling length: equal ones once, similar ones together."""
        self.cache.begin(slots)
        shared = self.cache.shared
        first: dict[tuple[int, ...], int] = {}  # place of a prompt, and of the one that it repeats
        source = [first.setdefault(tuple(ids), place) for place, ids in enumerate(prompts)]
        device = slots.device
        allowed = PADDING_CPU if device.type == "cpu" else PADDING_GPU
        for group in _of_similar_length(prompts, list(first.values()), allowed):
            tokens = pad([prompts[place][shared:] for place in group])
            tokens.positions = tokens.positions + shared
            if tokens.ids.shape[1]:
                self.backbone.fill(self.cache, tokens.to(device), slots[torch.tensor(group, device=device)])
        repeats = [place for place, at in enumerate(source) if at != place]
        if repeats:
            origin = torch.tensor([source[place] for place in repeats], device=device)
            self.cache.copy(slots[origin], slots[torch.tensor(repeats, device=device)])

    def _ids(self, question: int) -> list[int]:
        """Ids of a prompt; an empty one starts from EOS."""
        return list(self.prompt_ids[question]) or [self.backbone.layout.eos]

    def _seed(self, prompt: Prompt) -> int:
        return self.seed if prompt.seed is None else prompt.seed

    def _limit(self, prompt: Prompt) -> int:
        """Most emitted tokens."""
        most = self.config.max_new_tokens
        return most if prompt.max_new_tokens is None else min(most, prompt.max_new_tokens)

    def _until(self, question: int) -> Sequence[str]:
        """Stop strings."""
        own = self.prompts[question].until
        return self.config.until if own is None else own

    def _is_closed(self, question: int) -> bool:
        """The prompt ends with the close marker: the model does not think."""
        return self.backbone.layout.is_closed(self.prompt_ids[question])

    def _retire(self) -> None:
        """Read finished rows out of their slots."""
        s = self.slots
        done = ((s.stop != RUNNING) & (s.question >= 0)).nonzero()[:, 0]
        numbers = torch.stack(
            [s.question, s.stop, s.num_tokens, s.reasoning_end, s.answer_start, s.lengths,
             self.rows.num_latents, self.rows.in_answer.long(), self.rows.num_marks, s.capped.long()], dim=1,
        )[done].tolist()  # fmt: skip
        for row, tokens in zip(numbers, s.tokens[done].tolist(), strict=True):
            question, stop, num_tokens, reasoning_end, answer_start, length, num_latents, closed, marks, capped = row
            answer = tokens[answer_start:num_tokens] if closed else []
            reasoning = tokens[:reasoning_end] if closed else tokens[:num_tokens]
            num_prompt_tokens = len(self._ids(question))
            text = self.backbone.layout.answer_text(answer, raw=self.prompts[question].raw)
            self.results[question] = Generation(
                text=_cut(text, self._until(question)),
                reasoning=self.backbone.layout.decode(reasoning),
                closed=bool(closed),
                num_latents=num_latents,
                num_reasoning_tokens=max(len(reasoning) - marks, 0),
                num_answer_tokens=len(answer),
                num_prompt_tokens=num_prompt_tokens,
                decode_steps=length - num_prompt_tokens,
                stop_reason=_REASONS[stop],
                capped=bool(capped),
            )
        s.question[done] = -1

    def _result(self, index: int, trace: LatentTrace | None, actions: RowActions | None) -> Generation:
        if index not in self.results:
            return Generation(
                text="", reasoning="", closed=False, num_latents=0, num_reasoning_tokens=0, num_answer_tokens=0,
                num_prompt_tokens=len(self.prompt_ids[index]), decode_steps=0, stop_reason="prompt_too_long",
                actions=actions,
            )  # fmt: skip
        done = self.results[index]
        return done if trace is None and actions is None else replace(done, trace=trace, actions=actions)

    # one step

    def _advance(self) -> int:
        """Run the model once over all slots and decide what each row feeds next. Returns: rows still running."""
        s, rows = self.slots, self.rows
        running = s.stop == RUNNING
        output = self.backbone.advance(self.cache, s.embeds[:, None], s.lengths[:, None], running[:, None])
        hidden, logits = output.hidden[:, 0], output.logits[:, 0]
        s.lengths += running
        step = self.rule.step(hidden, logits, rows)
        deciding = running & (s.forced[:, 0] < 0) if self.forcing else running
        if step.mode is not None:
            self._think(step, deciding, logits)
        rows.steps += deciding
        emitted = deciding & (step.token >= 0)
        self._feed(step, running, deciding, emitted)
        if self.steps is not None:
            going = running & (s.stop == RUNNING)  # a row that the rule ended feeds nothing
            self.steps.add(s.question, going, deciding & going, emitted & going, step, logits)
        self._emit(step.token, emitted)
        self._note_close(step.token, running, emitted)
        return self._finish(running, emitted)

    def _think(self, step: Step, deciding: Tensor, logits: Tensor) -> None:
        """Count and trace latent steps; a row at the cap closes instead, and ends where that did not help."""
        s, rows = self.slots, self.rows
        assert step.mode is not None
        s.stop.masked_fill_(deciding & (step.mode == Mode.DONE), EOS)
        latent = deciding & (step.mode == Mode.LATENT)
        over = latent & (rows.num_latents >= self.config.max_latents)
        if not surely_none(over):
            latent = latent ^ over
            self._close_at_cap(step, over)
        if self.recorder is not None:
            self.recorder.add(s.question, latent, step, logits)
        rows.num_latents += latent
        rows.mode = torch.where(deciding, step.mode, rows.mode)

    def _close_at_cap(self, step: Step, over: Tensor) -> None:
        """Rows at the cap of latent steps ((batch,) bool) go on with text, and end where that did not help before."""
        s = self.slots
        assert step.mode is not None
        step.mode = torch.where(over, Mode.TEXT, step.mode)
        step.token = torch.where(over, -1, step.token)
        s.stop.masked_fill_(over & s.capped if len(self.close) else over, LENGTH)
        s.capped |= over
        marker = close_marker(self.backbone, over) if len(self.close) else None
        if marker is not None and step.forced is not None:
            width = max(marker.shape[1], step.forced.shape[1])
            step.forced = torch.where(over[:, None], widened(marker, width), widened(step.forced, width))
        elif marker is not None:
            step.forced = marker

    def _feed(self, step: Step, running: Tensor, deciding: Tensor, emitted: Tensor) -> None:
        """Choose each row's next input: what the rule says, or the next id of its queue (then in `step.token`)."""
        s = self.slots
        s.embeds = step.embeds
        if step.forced is not None and step.forced.shape[1]:
            new = deciding & (step.forced[:, 0] >= 0)
            s.forced = widened(s.forced, step.forced.shape[1])
            s.forced = torch.where(new[:, None], widened(step.forced, s.forced.shape[1]), s.forced)
        elif not self.forcing:
            return
        pops = running & (s.forced[:, 0] >= 0) & ~emitted  # an emitted token goes before the ids queued with it
        ids = s.forced[:, 0].clamp(min=0)
        s.embeds = torch.where(pops[:, None], self.backbone.embed(ids), step.embeds)
        step.token = torch.where(pops, ids, torch.where(emitted, step.token, -1))
        shifted = torch.cat([s.forced[:, 1:], torch.full_like(s.forced[:, :1], -1)], dim=1)
        s.forced = torch.where(pops[:, None], shifted, s.forced)

    def _emit(self, token: Tensor, emitted: Tensor) -> None:
        """Append emitted tokens; EOS ends a row and is not kept."""
        s = self.slots
        ends = emitted & (token[:, None] == self.eos).any(1)
        s.stop.masked_fill_(ends, EOS)
        s.tokens.scatter_(1, s.num_tokens[:, None], token[:, None])  # what is not kept is overwritten by the next
        s.num_tokens += emitted & ~ends

    def _note_close(self, fed: Tensor, running: Tensor, emitted: Tensor) -> None:
        """The answer segment starts once the last ids fed are the close marker, emitted or forced."""
        s, rows = self.slots, self.rows
        if not len(self.close):
            return
        s.recent = torch.cat([s.recent[:, 1:], fed[:, None]], 1)
        s.recent_emitted = torch.cat([s.recent_emitted[:, 1:], emitted[:, None]], 1)
        closes = running & ~rows.in_answer & (s.recent == self.close).all(1)
        s.reasoning_end = torch.where(closes, s.num_tokens - s.recent_emitted.sum(1), s.reasoning_end)
        s.answer_start = torch.where(closes, s.num_tokens, s.answer_start)
        rows.in_answer |= closes

    def _finish(self, running: Tensor, emitted: Tensor) -> int:
        """End rows at stop strings and caps; one transfer tells what the next step has to do. Returns: rows running."""
        s, rows = self.slots, self.rows
        if self.stopping:
            self._stop_strings(emitted & (s.stop == RUNNING) & rows.in_answer)
        full = (s.num_tokens >= s.limit) | (s.lengths >= self.backbone.context)
        s.stop.masked_fill_(full & (s.stop == RUNNING), LENGTH)
        running = s.stop == RUNNING
        thinks = running & (rows.mode == Mode.LATENT)
        facts = torch.stack([running.sum(), thinks.sum(), (s.forced[:, 0] >= 0).sum()])
        num_running, num_thinking, self.forcing = facts.tolist()
        rows.thinking, rows.talking = num_thinking > 0, num_thinking < num_running
        return int(num_running)

    def _stop_strings(self, rows: Tensor) -> None:
        """Look for stop strings in the tail that a just emitted token can have completed."""
        s = self.slots
        for row in rows.nonzero()[:, 0].tolist():
            stops = self._until(int(s.question[row]))
            if not stops:
                continue
            tail = 4 * max(map(len, stops)) + 8  # a token is a byte at least, a character four at most
            end = int(s.num_tokens[row])
            start = max(int(s.answer_start[row]), end - tail)
            text = self.backbone.layout.decode(s.tokens[row, start:end].tolist())
            if any(stop in text for stop in stops):
                s.stop[row] = STOP


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def _of_similar_length(rows: Sequence[Sequence[int]], places: Sequence[int], allowed: int) -> list[list[int]]:
    """The places of rows, which come by falling length, in groups that need so much padding at most."""
    groups: list[list[int]] = []
    padding = allowed + 1
    for place in places:
        padding += len(rows[groups[-1][0]]) - len(rows[place]) if groups else 0
        if padding > allowed:
            groups.append([])
            padding = 0
        groups[-1].append(place)
    return groups

"""One thread that answers the questions of many clients through the one decoding loop.

Questions of equal decoding settings share a batch (`Session`); stop strings, lengths and seeds are each question's own.
A few settings are decoded side by side, their sessions taking turns step by step; what has other settings waits, first
come first served, until one of them has no questions left.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from latbench.config import GenerateConfig
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.session import LatentReading, Session
from latbench.decoding.written import with_written_chain
from latbench.measures.measure_files import LatentStep
from latbench.measures.shown_latents import rounded
from latbench.method import Method
from latbench.serving.stream import TextStream

MAX_SESSIONS = 4  # settings that are decoded side by side, each with up to a whole batch of rows
log = logging.getLogger(__name__)


class FullError(Exception):
    """Too many questions wait."""


class StoppedError(Exception):
    """The server is stopping and takes no more questions."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One answer that is asked for."""

    prompt: Prompt
    """With its own seed, stop strings and length."""
    settings: GenerateConfig
    """How it is decoded; questions of equal settings share a batch."""
    latents: bool = False
    """Tell its latent steps."""
    live: bool = False
    """Tell its text as it grows; otherwise at its end."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """All questions fit the model's context and will be answered."""

    num_prompt_tokens: tuple[int, ...]
    """Of each question."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is new of one answer."""

    place: int
    """Of the question among those asked together."""
    reasoning: str = ""
    """Explicit reasoning text."""
    text: str = ""
    """Of the answer segment."""
    latents: tuple[LatentStep, ...] = ()
    """Latent steps."""
    done: Generation | None = None
    """The whole answer, once it is complete; what was told before is all of it but what this event tells."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Nothing more comes."""

    sentence: str
    """Why."""
    is_clients: bool
    """The questions are at fault."""


Event = Accepted | Told | Failed


@dataclass(eq=False, kw_only=True)
class Ticket:
    """Questions that were asked together, until they are answered."""

    questions: Sequence[Question]
    tell: Callable[[Event], None]
    left: int
    """Answers to come."""
    running: dict[int, tuple[_Lane, int]] = field(default_factory=dict)
    """By place: where a question is decoded, and its number there."""


@dataclass(eq=False)
class _Asked:
    """A question in a session."""

    ticket: Ticket
    place: int
    reasoning: TextStream
    answer: TextStream

    @property
    def question(self) -> Question:
        return self.ticket.questions[self.place]


class _Lane:
    """The questions of one kind of settings."""

    def __init__(self, method: Method[Any], settings: GenerateConfig, seed: int, top_k: int) -> None:
        self.backbone = method.backbone
        self.session = Session(method.backbone, method.rule(settings), settings, seed=seed, top_k=top_k)
        self.asked: dict[int, _Asked] = {}

    def take(self, ticket: Ticket, place: int, ids: Sequence[int]) -> None:
        question, layout = ticket.questions[place], self.backbone.layout
        number = self.session.add(ids, question.prompt, latents=question.latents)
        stops = question.settings.until if question.prompt.until is None else question.prompt.until
        answer = TextStream(partial(layout.answer_text, raw=question.prompt.raw), stops)
        self.asked[number] = _Asked(ticket, place, TextStream(layout.decode), answer)
        ticket.running[place] = self, number

    def step(self) -> list[tuple[Ticket, Told]]:
        """Decode one step of every row. Returns: what is new."""
        done = self.session.step()
        latents = self.session.feed.take()
        live = {number for number, asked in self.asked.items() if asked.question.live and number not in done}
        written = self.session.written(live)
        told = []
        for number in [*done, *(live | latents.keys()) - done.keys()]:
            asked = self.asked[number]
            reasoning = text = ""
            answer = done.get(number)
            if answer is not None:
                del self.asked[number], asked.ticket.running[asked.place]
                answer = with_written_chain(answer, self.backbone)
                reasoning, text = asked.reasoning.end(answer.reasoning), asked.answer.end(answer.text)
            elif number in written:
                reasoning = asked.reasoning.grow(written[number].reasoning)
                text = asked.answer.grow(written[number].answer)
            steps = tuple(map(self._shown, latents.get(number, ())))
            if reasoning or text or steps or answer is not None:
                event = Told(place=asked.place, reasoning=reasoning, text=text, latents=steps, done=answer)
                told.append((asked.ticket, event))
        return told

    def _shown(self, reading: LatentReading) -> LatentStep:
        decode = self.backbone.tokenizer.decode
        pairs = zip(reading.ids, reading.weights, strict=True)
        tokens = tuple((str(decode([token], skip_special_tokens=False)), weight) for token, weight in pairs)
        return rounded(LatentStep(entropy=reading.entropy, tokens=tokens))


class Engine:
    """Answers questions in a thread of its own.

    Args:
        method: loaded, with its weights; nothing else may use it meanwhile.
        seed: keys the draws of questions that say no seed.
        batch_size: rows of a session.
        max_queue: questions beyond them that may wait.
        top_k: tokens told of a latent step.
    """

    def __init__(self, method: Method[Any], *, seed: int, batch_size: int, max_queue: int, top_k: int = 5) -> None:
        self.method, self.seed, self.top_k = method.eval(), seed, top_k
        self.capacity = batch_size + max_queue
        self._changed = threading.Condition()
        self._inbox: deque[Callable[[], object]] = deque()  # what the thread is to do between two steps
        self._num_open = 0  # questions without an answer
        self._closing = self._killed = False
        self._lanes: dict[str, _Lane] = {}
        self._parked: deque[tuple[Ticket, int, Sequence[int]]] = deque()  # questions whose settings have to wait
        self._thread = threading.Thread(target=self._run, name="latbench-engine", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Questions without an answer."""
        return self._num_open

    def submit(self, questions: Sequence[Question], tell: Callable[[Event], None]) -> Ticket:
        """Ask; from any thread.

        Args:
            tell: called in the engine's thread: `Accepted` and then `Told` for each question until all are done, or
                `Failed`.
        Raises: FullError: too many questions wait; StoppedError: the server is stopping.
        """
        ticket = Ticket(questions=questions, tell=tell, left=len(questions))
        with self._changed:
            if self._closing:
                raise StoppedError
            if self._num_open + len(questions) > self.capacity:
                raise FullError
            self._num_open += len(questions)
            self._inbox.append(lambda: self._take(ticket))
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Drop what is not answered yet; nothing more is told."""
        with self._changed:
            self._inbox.append(lambda: self._drop(ticket))
            self._changed.notify()

    def close(self, grace: float = 0.0) -> None:
        """Take no more questions, answer those that were taken, and fail what is left when the time is up.

        Args:
            grace: seconds.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(grace)
        self._killed = True
        self._thread.join()

    # in the engine's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._inbox or self._lanes or self._closing):
                    self._changed.wait()
                if self._killed or (self._closing and not self._inbox and not self._lanes):
                    break
                inbox, self._inbox = self._inbox, deque()
            for action in inbox:
                action()
            for key, lane in list(self._lanes.items()):
                self._step(key, lane)
            self._unpark()
        tickets = {asked.ticket for lane in self._lanes.values() for asked in lane.asked.values()}
        for ticket in tickets | {ticket for ticket, _, _ in self._parked}:
            self._fail(ticket, "the server stopped before the answer was complete", is_clients=False)

    def _step(self, key: str, lane: _Lane) -> None:
        try:
            told = lane.step()
        except Exception as error:  # out of memory, say: the other sessions go on
            log.exception("a step of decoding failed")
            del self._lanes[key]
            for asked in lane.asked.values():
                del asked.ticket.running[asked.place]
            for ticket in {asked.ticket for asked in lane.asked.values()}:
                self._fail(ticket, f"decoding failed: {type(error).__name__}", is_clients=False)
            return
        for ticket, event in told:
            self._tell(ticket, event)
            if event.done is not None:
                self._close_questions(ticket, 1)
        if not len(lane.session):
            del self._lanes[key]

    def _take(self, ticket: Ticket) -> None:
        """Read the prompts and give the questions to their sessions."""
        context = self.method.backbone.context
        try:
            ids = [self.method.fed_ids(question.prompt, question.settings) for question in ticket.questions]
            self.method.rule(ticket.questions[0].settings)  # refuses settings that do not go together
        except ValueError as error:
            self._fail(ticket, str(error), is_clients=True)
            return
        except Exception as error:  # of a tokenizer, say: the thread answers everybody else
            log.exception("a question could not be read")
            self._fail(ticket, f"the question could not be read: {type(error).__name__}", is_clients=False)
            return
        if (longest := max(map(len, ids))) > context:
            sentence = f"the prompt has {longest} tokens, more than the context of {context}; shorten it"
            self._fail(ticket, sentence, is_clients=True)
            return
        self._tell(ticket, Accepted(num_prompt_tokens=tuple(map(len, ids))))
        self._parked.extend((ticket, place, row) for place, row in enumerate(ids))
        self._unpark()

    def _unpark(self) -> None:
        """Give the questions that came first to their sessions, up to the first that has to wait for one."""
        while self._parked:
            ticket, place, ids = self._parked[0]
            settings = ticket.questions[place].settings
            key = json.dumps(asdict(settings), sort_keys=True)
            if key not in self._lanes:
                if len(self._lanes) == MAX_SESSIONS:
                    return
                self._lanes[key] = _Lane(self.method, settings, self.seed, self.top_k)
            self._parked.popleft()
            self._lanes[key].take(ticket, place, ids)

    def _drop(self, ticket: Ticket) -> None:
        for lane, number in ticket.running.values():
            lane.session.cancel(number)
            del lane.asked[number]
        ticket.running.clear()
        self._parked = deque(parked for parked in self._parked if parked[0] is not ticket)
        for key in [key for key, lane in self._lanes.items() if not len(lane.session)]:
            del self._lanes[key]
        self._close_questions(ticket, ticket.left)

    def _fail(self, ticket: Ticket, sentence: str, *, is_clients: bool) -> None:
        self._drop(ticket)
        self._tell(ticket, Failed(sentence=sentence, is_clients=is_clients))

    def _close_questions(self, ticket: Ticket, num: int) -> None:
        ticket.left -= num
        with self._changed:
            self._num_open -= num

    def _tell(self, ticket: Ticket, event: Event) -> None:
        with suppress(RuntimeError):  # the client's event loop is gone
            ticket.tell(event)

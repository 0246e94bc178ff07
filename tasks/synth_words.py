"""synth_words: the dependency graphs of `synth` as worded problems in plain arithmetic, for pretrained models; offline.

    question  Ann has 3 shelves with 7 shells on each. Leo sits on seat 9. Ben has 5 fewer coins than Ann has shells.
              How many coins does Ben have?
    steps     <<3*7=21>> <<21-5=16>>      any order in which they can be computed
    answer    16

A level is a number of operations. Each quantity is what one person has of one thing; it is worded in one of several
forms for its operation, from two numbers of the text, from a number and another quantity, or from two other quantities.
Things are counted or measured (coins, litres of milk). A distractor is a fact that the answer does not need: a further
quantity, or somebody's seat, house or bus.

- The graphs are drawn as `synth` draws them, splits are disjoint by the same hash of the canonical graph (operations,
  numbers and shape), and all valid orders of the steps are known from the graph.
- Numbers are drawn from the answer down: the answer first, uniformly from 2 to `max_value`, then for each quantity an
  operation and operands that give its value. So all numbers are positive integers up to `max_value`, and answers are
  uniform on every level.
- A value is written in its own step and in the one that needs it, nowhere else: no other number of the problem equals
  it. Which quantity a number in a latent step stands for is then known without names.
- The names, things and forms are drawn apart from the graph and the numbers, as is the order of the steps.

Steps are equations in values, the format of GSM8K-Aug, which is what the latent methods of the literature are trained
on; `task.steps=phrases` also says whose quantity a step computes (`Ann: 3 * 7 = 21`), for models that shall write
names.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import Fraction, Positive
from latbench.registry import register_task
from latbench.task import STRICT, Example, TaskConfig
from tasks.synth import (
    MAX_DRAWS,
    DependencyTask,
    Needs,
    Quantity,
    SynthConfig,
    canonical,
    draw,
    num_orders,
    order_of,
    split_of,
)

LEAST = 2  # of every number: nothing is singular, and no operation leaves a value as it is
TRIES = 100  # of numbers for one graph
PEOPLE = (
    "Ann", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo", "Maria", "Noah",
    "Olivia", "Paul", "Quinn", "Rosa", "Sam", "Tina", "Umar", "Vera", "Will", "Zoe",
)  # fmt: skip
THINGS = (
    "apples", "books", "coins", "cards", "eggs", "flowers", "keys", "lemons", "marbles", "pencils", "photos", "shells",
    "stamps", "stickers", "tickets", "toys", "kilograms of rice", "litres of milk", "metres of rope", "bags of sand",
    "cups of tea", "jars of honey", "pairs of socks", "sheets of paper",
)  # fmt: skip

# By operation and operands: {who} has {what}; {a} and {b} are the numbers among the operands, in the order of the step.
# Of an operand that is a quantity, {has} is `Ann has apples` and {of} is `Ann's apples`; {of2} is a second one.
FORMS: dict[str, tuple[str, ...]] = {
    "number + number": (
        "{who} has {a} {what} at home and {b} at work.",
        "{who} was given {a} {what} on Monday and {b} more on Friday.",
        "First {who} got {a} {what}, and later another {b}.",
    ),
    "number - number": (
        "{who} had {a} {what} and gave {b} of them away.",
        "Of the {a} {what} that {who} bought, {b} are gone and the others are left.",
        "{who} counted {a} {what}, but {b} of them were not for {who} to keep.",
    ),
    "number * number": (
        "{who} has {a} shelves with {b} {what} on each.",
        "For {a} days {who} got {b} {what} a day and kept them all.",
        "In each of {a} rooms {who} has {b} {what}.",
    ),
    "quantity + number": (
        "{who} has {b} more {what} than {has}.",
        "{who} has as many {what} as {has}, and another {b}.",
        "If {who} gave away {b} {what}, there would be as many left as {has}.",
    ),
    "quantity - number": (
        "{who} has {b} fewer {what} than {has}.",
        "{who} needs {b} more {what} to have as many as {has}.",
        "Take {b} from the number of {of} to get the number of {what} that {who} has.",
    ),
    "number - quantity": (
        "{who} had {a} {what} and gave away as many as {has}.",
        "Out of {a} {what}, {who} sold as many as {has} and kept the others.",
        "The {what} of {who} and {of} make {a} in all.",
    ),
    "quantity * number": (
        "{who} has {b} times as many {what} as {has}.",
        "For each of {of}, {who} has {b} {what}.",
        "In each of {b} rooms {who} has as many {what} as {has}.",
    ),
    "quantity + quantity": (
        "{who} has as many {what} as {of} and {of2} make together.",
        "Add {of} and {of2} to get the number of {what} that {who} has.",
        "For each of {of} and each of {of2}, {who} has one of the {what}.",
    ),
    "quantity - quantity": (
        "The number of {what} that {who} has is the number of {of} less the number of {of2}.",
        "Take the number of {of2} from the number of {of} to get the number of {what} that {who} has.",
        "Together with {of2}, the {what} of {who} are as many as {has}.",
    ),
}
FACTS = ("{who} sits on seat {a}.", "{who} lives in house number {a}.", "{who} takes the bus of line {a}.")
ASKED = (
    "How many {what} does {who} have?",
    "What is the number of {what} that {who} has?",
    "Find the number of {what} that {who} has.",
)


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class SynthWordsConfig(TaskConfig):
    """Which problems, how many, and how they are worded; the problems themselves depend on the first block alone."""

    min_ops: Annotated[int, Field(ge=1, le=12)] = 3
    """Least level, the number of operations; there are equally many problems of each level."""
    max_ops: Annotated[int, Field(ge=1, le=12)] = 5
    """Greatest level."""
    max_value: Annotated[int, Field(ge=30, le=999)] = 99
    """Greatest number, in the text, in the steps and as an answer."""
    branch: Fraction = 0.5
    """Probability of opening a further branch of the graph where one fits, and of merging two."""
    seed: int = 0
    """Seed of the problems; splits share no graph and no text at any seed."""
    num_train: Positive = 8000
    """Training problems; the first n of a larger set are the same rows."""
    num_validation: Positive = 500
    """Validation problems."""
    num_test: Positive = 1000
    """Test problems."""
    order: Literal["random", "canonical"] = "random"
    """Order of the steps: any valid one, or that of the definitions."""
    steps: Literal["equations", "phrases"] = "equations"
    """How a step is written: `<<3*7=21>>`, or `Ann: 3 * 7 = 21`."""
    shuffled: bool = False
    """Sentences in random order; else what a sentence speaks of comes before it."""
    distractors: Annotated[int, Field(ge=0, le=12)] = 1
    """Sentences that the answer does not need."""

    def __post_init__(self) -> None:
        if self.min_ops > self.max_ops:
            raise ValueError(f"task.min_ops is {self.min_ops} but task.max_ops is {self.max_ops}; raise task.max_ops")

    def size(self, split: str) -> int:
        """Number of examples of a split."""
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]


@register_task("synth_words", config=SynthWordsConfig)
class SynthWords(DependencyTask[SynthWordsConfig]):
    """Worded problems in plain arithmetic."""

    def examples(self, split: str) -> Iterator[Example]:
        """See DependencyTask."""
        return islice(_examples(self.config, split), self.config.size(split))

    def source(self) -> str:
        """See DependencyTask."""
        config = self.config
        settings = [f"ops {config.min_ops}-{config.max_ops}", f"up to {config.max_value}", f"branch {config.branch:g}"]
        settings += [f"seed {config.seed}", config.order, config.steps, "shuffled" * config.shuffled]
        return "synth_words: " + ", ".join(filter(None, [*settings, f"{config.distractors} distractors"]))


# problems


def _problems(config: SynthWordsConfig, split: str) -> Iterator[list[Quantity]]:
    """Endless problems of a split; outside training no canonical graph comes twice."""
    rng = random.Random(f"synth_words problems {config.seed} {split}")
    shapes = SynthConfig(branch=config.branch)
    seen: set[str] = set()
    level = config.min_ops
    while True:
        answer = rng.randint(LEAST, config.max_value)
        for _ in range(MAX_DRAWS):
            needs = tuple(quantity.needs for quantity in draw(rng, shapes, level))
            quantities = _numbered(rng, needs, answer, config.max_value)
            if quantities is None:
                continue
            form = canonical(quantities)
            if split_of(form) == split and form not in seen:
                break
        else:
            raise ValueError(
                f"task synth_words finds no further {split} problem of level {level} with answer {answer} after "
                f"{len(seen)}; lower task.num_{split} or raise task.min_ops or task.max_value"
            )
        if split != "train":
            seen.add(form)
        yield quantities
        level = level + 1 if level < config.max_ops else config.min_ops


def _numbered(rng: random.Random, needs: Needs, answer: int, most: int) -> list[Quantity] | None:
    """Numbers for a graph whose last quantity is the answer; None where some number equals a value that it is not."""
    for _ in range(TRIES):
        values = {len(needs) - 1: answer}
        quantities: list[Quantity] = []
        for index in reversed(range(len(needs))):
            quantity = _quantity(rng, values[index], needs[index], most)
            quantities.insert(0, quantity)
            operands = map(int, quantity.equation.split("=")[0].split(quantity.op))
            for (is_literal, operand), value in zip((quantity.left, quantity.right), operands, strict=True):
                if not is_literal:
                    values[operand] = value
        if len(set(values.values())) == len(needs) and not _literals(quantities) & set(values.values()):
            return quantities
    return None


def _quantity(rng: random.Random, value: int, needs: tuple[int, ...], most: int) -> Quantity:
    """An operation with operands up to `most` that give the value; as in synth, no product of two quantities."""
    pairs = {op: _pairs(op, value, most) for op in ("+-" if len(needs) == 2 else "+-*")}
    op = rng.choice([op for op, found in pairs.items() if found])
    left, right = rng.choice(pairs[op])
    is_needed = [True, True] if len(needs) == 2 else [len(needs) == 1, False]
    if op == "-" and rng.random() < 0.5:
        is_needed.reverse()
    waiting = iter(needs)
    operands = [
        (False, next(waiting)) if needed else (True, x) for needed, x in zip(is_needed, (left, right), strict=True)
    ]
    return Quantity(op, operands[0], operands[1], needs, f"{left}{op}{right}={value}", value)


def _pairs(op: str, value: int, most: int) -> list[tuple[int, int]]:
    """All operands from LEAST to `most` that give the value; there are some with + or - whatever the value."""
    if op == "+":
        return [(x, value - x) for x in range(LEAST, value - LEAST + 1)]
    if op == "-":
        return [(value + y, y) for y in range(LEAST, most - value + 1)]
    return [(x, value // x) for x in range(LEAST, value // LEAST + 1) if value % x == 0]


def _literals(quantities: Sequence[Quantity]) -> set[int]:
    return {x for quantity in quantities for is_literal, x in (quantity.left, quantity.right) if is_literal}


# wording


def _examples(config: SynthWordsConfig, split: str) -> Iterator[Example]:
    """Endless examples; three streams of random numbers, so that wording and order leave the problems as they are."""
    wording = random.Random(f"synth_words wording {config.seed} {split}")
    orders = random.Random(f"synth_words orders {config.seed} {split}")
    for index, quantities in enumerate(_problems(config, split)):
        needs: Needs = tuple(quantity.needs for quantity in quantities)
        rank = orders.randrange(num_orders(needs, 0)) if config.order == "random" else 0
        order = order_of(needs, rank)
        question, owners, names = _question(config, quantities, wording)
        steps = [_step(config, *named) for named in zip(owners, quantities, strict=True)]
        yield Example(
            id=f"{split}-{index}",
            question=question,
            steps=tuple(steps[i] for i in order),
            answer=str(quantities[-1].value),
            meta={
                "level": len(quantities),
                "names": names,
                "steps": steps,
                "needs": [list(required) for required in needs],
                "order": list(order),
            },
        )


def _step(config: SynthWordsConfig, owner: str, quantity: Quantity) -> str:
    if config.steps == "equations":
        return f"<<{quantity.equation}>>"
    left, right = quantity.equation.split("=")[0].split(quantity.op)
    return f"{owner}: {left} {quantity.op} {right} = {quantity.value}"


def _question(
    config: SynthWordsConfig, quantities: Sequence[Quantity], rng: random.Random
) -> tuple[str, list[str], list[str]]:
    """The text, and of each quantity the answer needs whose it is and what it is called."""
    is_needed = [True] * len(quantities) + [False] * config.distractors
    rng.shuffle(is_needed)
    people, things = rng.sample(PEOPLE, len(is_needed)), rng.sample(THINGS, len(is_needed))
    values = {quantity.value for quantity in quantities}
    everything: list[Quantity | None] = []  # None: a fact that is no quantity
    places: list[int] = []  # of the quantities the answer needs
    sentences: list[str] = []
    for who, what, needed in zip(people, things, is_needed, strict=True):
        if needed:
            quantity: Quantity | None = _moved(quantities[len(places)], places)
            places.append(len(everything))
        else:
            quantity = _distractor(rng, everything, values, config.max_value)
        everything.append(quantity)
        sentences.append(_sentence(rng, who, what, quantity, people, things, values, config.max_value))
    if config.shuffled:
        rng.shuffle(sentences)
    asked = rng.choice(ASKED).format(who=people[places[-1]], what=things[places[-1]])
    owners = [people[place] for place in places]
    return " ".join([*sentences, asked]), owners, [f"{people[place]}'s {things[place]}" for place in places]


def _moved(quantity: Quantity, places: Sequence[int]) -> Quantity:
    """The quantity with its operands at their places among all sentences."""
    left, right = ((is_literal, x if is_literal else places[x]) for is_literal, x in (quantity.left, quantity.right))
    return replace(quantity, left=left, right=right, needs=tuple(places[i] for i in quantity.needs))


def _distractor(
    rng: random.Random, earlier: Sequence[Quantity | None], values: Collection[int], most: int
) -> Quantity | None:
    """A quantity in which no number is a value that the answer needs, but for what an earlier one gives; or a fact."""
    if rng.random() < 0.5:
        return None
    usable = [index for index, quantity in enumerate(earlier) if quantity is not None]
    needs = (rng.choice(usable),) if usable and rng.random() < 0.5 else ()
    for _ in range(TRIES):
        quantity = _quantity(rng, rng.randint(LEAST, most), needs, most)
        operands = (quantity.left, quantity.right)
        numbers = map(int, quantity.equation.split("=")[0].split(quantity.op))
        fits = all(
            number not in values if is_literal else number == _value(earlier, x)
            for (is_literal, x), number in zip(operands, numbers, strict=True)
        )
        if fits and quantity.value not in values:
            return quantity
    return None


def _value(quantities: Sequence[Quantity | None], index: int) -> int:
    quantity = quantities[index]
    assert quantity is not None, "facts are no operands"
    return quantity.value


def _sentence(
    rng: random.Random,
    who: str,
    what: str,
    quantity: Quantity | None,
    people: Sequence[str],
    things: Sequence[str],
    values: Collection[int],
    most: int,
) -> str:
    """One of the forms of a quantity's operation; of a fact, with a number that is no value."""
    if quantity is None:
        free = [number for number in range(LEAST, most + 1) if number not in values]
        return rng.choice(FACTS).format(who=who, a=rng.choice(free))
    operands = (quantity.left, quantity.right)
    kinds = ["number" if is_literal else "quantity" for is_literal, _ in operands]
    slots = {name: str(x) for name, (is_literal, x) in zip("ab", operands, strict=True) if is_literal}
    others = [f"{people[x]}'s {things[x]}" for is_literal, x in operands if not is_literal]
    slots |= dict(zip(("of", "of2"), others, strict=False))
    if others:
        first = next(x for is_literal, x in operands if not is_literal)
        slots["has"] = f"{people[first]} has {things[first]}"
    form = rng.choice(FORMS[f"{kinds[0]} {quantity.op} {kinds[1]}"])
    return form.format(who=who, what=what, **slots)

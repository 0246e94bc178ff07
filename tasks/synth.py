"""synth: generated arithmetic over a dependency graph of quantities; offline, seeded, learnable by a tiny model.

    question  mod 10: n0=3+4; n1=6-1; n2=n0*7; n3=n2-n1; n3?
    steps     <<n1=6-1=5>> <<n0=3+4=7>> <<n2=7*7=9>> <<n3=9-5=4>>      any order in which they can be computed
    answer    4

A level is a number of operations. The graph is a tree: each quantity is computed from literals and at most two earlier
quantities and is used once, so that the branches of a problem can be worked in any interleaving; `paths` enumerates
them all, and a training chain is one of them, drawn uniformly.

- Splits are disjoint by construction: a keyed hash of the canonical graph (operations, literals and shape, whatever the
  names, the order of the sentences and the order of the operands of + and *) says which split a problem belongs to.
- Answers are uniform by construction: every operation is one-to-one in an operand that is itself uniform.
- No spaces inside a sentence, so that the `3` of a question and the `3` of a step are the same token of the tiny model.

Why these defaults: trials with the embedded backbone (hidden 128, 3 layers, 1,500 steps of 32, AdamW 1e-3, random
orders, one seed, 1,000 test problems). Steps that hold values alone leave it to the model to find out which earlier
value belongs to which name: 0.88 on levels 2 to 4 (1.00 where one order is valid, 0.64 where three are). Steps that
name what they compute gave 1.00 on levels 2 to 4 and on levels 3 to 5, whatever the number of valid orders. Levels 3
to 5 are the default: `direct` stays near chance, and four fifths of the problems of level 4 and 5 have several orders.

The tiny presets of the methods ask for less (levels 2 to 4, canonical order, values alone), which two layers learn in
one pass: latent steps have to look up, compute and store in one pass through the layers what explicit text spreads over
several, and a method that feeds its mean superposition back never commits to one of several orders.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import Fraction, ProblemCount
from latbench.registry import register_task
from latbench.task import STRICT, ConfigT, Example, Fingerprint, Node, Score, Task, TaskConfig

SPLIT_SHARES = {"train": 80, "validation": 10, "test": 10}  # percent of all canonical graphs
SPLIT_KEY = b"latbench synth"  # of the hash that assigns a graph to a split, whatever the settings and the seed
NUM_NAMES = 24  # random names are drawn from n0 .. n23
MAX_DRAWS = 2000  # in a row without a new problem; then the settings have too few

Needs = tuple[tuple[int, ...], ...]  # by quantity: the earlier quantities it is computed from


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class SynthConfig(TaskConfig):
    """Which problems, how many, and how they are worded; the problems themselves depend on the first block alone."""

    min_ops: Annotated[int, Field(ge=1, le=12)] = 3
    """Least level, the number of operations; there are equally many problems of each level."""
    max_ops: Annotated[int, Field(ge=1, le=12)] = 5
    """Greatest level."""
    modulus: Annotated[int, Field(ge=2, le=1000)] = 10
    """Modulus of every operation."""
    branch: Fraction = 0.5
    """Probability of opening a further branch of the graph where one fits, and of merging two."""
    seed: int = 0
    """Seed of the problems; splits share no graph and no text at any seed."""
    num_train: ProblemCount = 50_000
    """Training problems; the first n of a larger set are the same rows."""
    num_validation: ProblemCount = 500
    """Validation problems."""
    num_test: ProblemCount = 1000
    """Test problems."""
    order: Literal["random", "canonical"] = "random"
    """Order of the steps: any valid one, or that of the definitions."""
    shuffled: bool = False
    """State the definitions in random order."""
    step_names: bool = True
    """Steps say what they compute, `<<n1=6-1=5>>`; false: values alone, `<<6-1=5>>`."""
    random_names: bool = False
    """Draw names from n0 to n23; false: n0, n1 and so on in the order of definition."""
    distractors: Annotated[int, Field(ge=0, le=12)] = 0
    """Quantities that the answer does not need."""

    def __post_init__(self) -> None:
        if self.min_ops > self.max_ops:
            raise ValueError(f"task.min_ops is {self.min_ops} but task.max_ops is {self.max_ops}; raise task.max_ops")

    def size(self, split: str) -> int:
        """Number of examples of a split."""
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]


@dataclass(frozen=True)
class Quantity:
    """`left op right` modulo the modulus; an operand is a literal or the index of an earlier quantity.

    Args:
        op: one of + - *.
        left: (is a literal, literal or index).
        right: (is a literal, literal or index).
        needs: indices of the quantities among the operands.
        equation: `a+b=c`, in values.
        value: c.
    """

    op: str
    left: tuple[bool, int]
    right: tuple[bool, int]
    needs: tuple[int, ...]
    equation: str
    value: int


class DependencyTask(Task[ConfigT]):
    """Generated problems over a dependency graph of quantities, with every valid order of their steps known.

    `Example.meta`: `level` (number of operations), `names`, `steps` and `needs` by quantity in order of definition
    (only those the answer needs; `needs` holds indices), `order` (indices in the order of `Example.steps`).
    """

    splits = tuple(SPLIT_SHARES)
    disjoint_splits = True

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        self._loaded: dict[str, list[Example]] = {}

    @abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """The rows of a split. Raises: ValueError: the settings have too few different problems."""

    @abstractmethod
    def source(self) -> str:
        """The generator's name with its settings."""

    def load(self, split: str) -> list[Example]:
        """The split's examples; the same call returns the same rows.

        Raises: ValueError: unknown split, or the settings have too few different problems.
        """
        if split not in self.splits:
            raise ValueError(f"task {self.name} has no split {split!r}; choose one of {', '.join(self.splits)}")
        if split not in self._loaded:
            self._loaded[split] = list(self.examples(split))
        return list(self._loaded[split])

    def fingerprint(self, split: str) -> Fingerprint:
        """Generator name with its settings, and the hash of the rows' canonical JSON."""
        examples = self.load(split)
        digest = hashlib.sha256()
        for example in examples:
            row = [example.id, example.question, example.steps, example.answer]
            digest.update((json.dumps(row, separators=(",", ":")) + "\n").encode())
        return Fingerprint(source=self.source(), sha256=digest.hexdigest(), num_examples=len(examples))

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """The text's number against the gold number."""
        from latbench.answers.scoring import score_answers  # here: tasks load without the checker

        answers = [(text, example.answer) for text, example in pairs]
        return score_answers(answers, "number", self.config.scorer, self.config.run_on)

    def paths(self, example: Example) -> list[tuple[str, ...]]:
        """Every valid order of the steps, a thousand at most."""
        return paths(example)

    def graph(self, example: Example) -> list[Node]:
        """The quantities that the answer needs, in order of definition."""
        steps, needs = example.meta["steps"], _meta_needs(example)
        values = [step.removesuffix(">>").rpartition("=")[2].strip() for step in steps]
        return [Node(value=v, step=s, needs=n) for v, s, n in zip(values, steps, needs, strict=True)]


@register_task("synth", config=SynthConfig)
class Synth(DependencyTask[SynthConfig]):
    """Terse problems in modular arithmetic."""

    def examples(self, split: str) -> Iterator[Example]:
        """See DependencyTask."""
        return islice(_examples(self.config, split), self.config.size(split))

    def source(self) -> str:
        """See DependencyTask."""
        config = self.config
        wording = [config.order, "shuffled" * config.shuffled, "random names" * config.random_names]
        wording += ["values alone" * (not config.step_names)]
        extra = [f"{config.distractors} distractors"] if config.distractors else []
        settings = [f"ops {config.min_ops}-{config.max_ops}", f"mod {config.modulus}", f"branch {config.branch:g}"]
        return "synth: " + ", ".join(text for text in [*settings, f"seed {config.seed}", *wording, *extra] if text)


def ready(example: Example, done: Collection[int]) -> list[int]:
    """Indices (into `meta["steps"]`) of the quantities that can be computed next, given those already computed."""
    needs: list[list[int]] = example.meta["needs"]
    return [i for i, required in enumerate(needs) if i not in done and all(j in done for j in required)]


def num_paths(example: Example) -> int:
    """Number of valid step orders (two orders may read the same where two steps do)."""
    return num_orders(_meta_needs(example), 0)


def paths(example: Example, cap: int = 1000, seed: int = 0) -> list[tuple[str, ...]]:
    """The distinct valid step orders as texts, in a fixed order.

    Args:
        cap: where more orders are valid, this many of them are drawn without replacement, uniformly.
        seed: of that draw; it is also keyed by the question.
    """
    needs = _meta_needs(example)
    total = num_orders(needs, 0)
    ranks: Collection[int] = range(total)
    if total > cap:
        ranks = sorted(random.Random(f"synth paths {seed} {example.question}").sample(range(total), cap))
    steps = example.meta["steps"]
    return list(dict.fromkeys(tuple(steps[i] for i in order_of(needs, rank)) for rank in ranks))


def _meta_needs(example: Example) -> Needs:
    return tuple(tuple(required) for required in example.meta["needs"])


@lru_cache(maxsize=1 << 16)
def num_orders(needs: Needs, done: int) -> int:
    """Number of valid orders of what remains; `done` is a bit set."""
    if done + 1 == 1 << len(needs):
        return 1
    return sum(num_orders(needs, done | 1 << i) for i in _ready(needs, done))


@lru_cache(maxsize=1 << 16)
def _ready(needs: Needs, done: int) -> tuple[int, ...]:
    return tuple(i for i, required in enumerate(needs) if not done >> i & 1 and all(done >> j & 1 for j in required))


@lru_cache(maxsize=1 << 16)
def order_of(needs: Needs, rank: int) -> tuple[int, ...]:
    """The valid order of that rank (0-based, lexicographic); rank 0 is the order of definition."""
    done = 0
    order: list[int] = []
    while len(order) < len(needs):
        for i in _ready(needs, done):
            count = num_orders(needs, done | 1 << i)
            if rank < count:
                order.append(i)
                done |= 1 << i
                break
            rank -= count
    return tuple(order)


def _problems(config: SynthConfig, split: str) -> Iterator[list[Quantity]]:
    """Endless problems of a split; outside training no canonical graph comes twice."""
    rng = random.Random(f"synth problems {config.seed} {split}")
    seen: set[str] = set()
    level = config.min_ops
    while True:
        for _ in range(MAX_DRAWS):
            quantities = draw(rng, config, level)
            form = canonical(quantities)
            if split_of(form) == split and form not in seen:
                break
        else:
            raise ValueError(
                f"task synth finds no further {split} problem of level {level} after {len(seen)}; "
                f"lower task.num_{split} or raise task.min_ops"
            )
        if split != "train":
            seen.add(form)
        yield quantities
        level = level + 1 if level < config.max_ops else config.min_ops


def canonical(quantities: Sequence[Quantity]) -> str:
    """Form of the graph under the last quantity that all its wordings share.

    Names, order of definition, and the operands' order of + and * do not enter; operations and literals do.
    """
    forms: list[str] = []
    for quantity in quantities:
        operands = [str(x) if is_literal else forms[x] for is_literal, x in (quantity.left, quantity.right)]
        if quantity.op != "-":
            operands.sort()
        forms.append(f"({operands[0]}{quantity.op}{operands[1]})")
    return forms[-1]


def split_of(form: str) -> str:
    """The split that a canonical form belongs to, whatever the settings and the seed."""
    percentile = int.from_bytes(hashlib.blake2b(form.encode(), digest_size=8, key=SPLIT_KEY).digest()) % 100
    for split, share in SPLIT_SHARES.items():
        if percentile < share:
            return split
        percentile -= share
    raise AssertionError("shares sum to 100")


def draw(rng: random.Random, config: SynthConfig, num_ops: int) -> list[Quantity]:
    """A random tree of quantities in order of definition; the last one is asked for.

    A root is a quantity that no other needs yet; the remaining operations must suffice to merge all roots into one.
    """
    quantities: list[Quantity] = []
    roots: list[int] = []
    for index in range(num_ops):
        after = num_ops - index - 1
        if not roots or (after >= len(roots) and rng.random() < config.branch):
            operands = [(True, rng.randrange(config.modulus))]
        elif len(roots) > 1 and (after < len(roots) - 1 or rng.random() < config.branch):
            operands = [(False, root) for root in rng.sample(roots, 2)]
        else:
            operands = [(False, rng.choice(roots))]
        quantities.append(_quantity(rng, config.modulus, operands, quantities))
        roots = [root for root in roots if (False, root) not in operands]
        roots.append(index)
    return quantities


def _quantity(
    rng: random.Random, modulus: int, operands: Sequence[tuple[bool, int]], earlier: Sequence[Quantity]
) -> Quantity:
    """Combine one or two operands; a missing second one becomes a literal that keeps results uniform.

    Multiplication takes a unit of the modulus as its literal and is not used between two quantities: every operation
    is then one-to-one in each uniform operand, so that all answers are equally likely.
    """
    units = _units(modulus)
    if len(operands) == 2:
        op = rng.choice("+-")
        left, right = operands
    else:
        op = rng.choice("+-*" if units else "+-")
        literal = rng.choice(units) if op == "*" else rng.randrange(modulus)
        left, right = operands[0], (True, literal)
        if rng.random() < 0.5:
            left, right = right, left
    a, b = (x if is_literal else earlier[x].value for is_literal, x in (left, right))
    value = (a + b if op == "+" else a - b if op == "-" else a * b) % modulus
    needs = tuple(x for is_literal, x in (left, right) if not is_literal)
    return Quantity(op, left, right, needs, f"{a}{op}{b}={value}", value)


@lru_cache
def _units(modulus: int) -> tuple[int, ...]:
    """Literals other than 1 whose multiplication modulo `modulus` is one-to-one."""
    return tuple(x for x in range(2, modulus) if math.gcd(x, modulus) == 1)


def _examples(config: SynthConfig, split: str) -> Iterator[Example]:
    """Endless examples; three streams of random numbers, so that wording and order leave the problems as they are."""
    wording = random.Random(f"synth wording {config.seed} {split}")
    orders = random.Random(f"synth orders {config.seed} {split}")
    for index, quantities in enumerate(_problems(config, split)):
        needs: Needs = tuple(quantity.needs for quantity in quantities)
        rank = orders.randrange(num_orders(needs, 0)) if config.order == "random" else 0
        order = order_of(needs, rank)
        question, names = _question(config, quantities, wording)
        prefixes = [f"{name}=" for name in names] if config.step_names else [""] * len(names)
        steps = [f"<<{prefix}{quantity.equation}>>" for prefix, quantity in zip(prefixes, quantities, strict=True)]
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


def _question(config: SynthConfig, quantities: Sequence[Quantity], rng: random.Random) -> tuple[str, list[str]]:
    """The text, and the names of the quantities the answer needs; `mod 10: n0=3+4; n1=n0*7; n1?`."""
    needed = list(range(len(quantities)))  # position of each quantity the answer needs among all sentences
    everything = list(quantities)
    if config.distractors:
        everything, needed = _with_distractors(config, quantities, rng)
    numbers = rng.sample(range(NUM_NAMES), len(everything)) if config.random_names else range(len(everything))
    names = [f"n{number}" for number in numbers]
    sentences = [_sentence(name, quantity, names) for name, quantity in zip(names, everything, strict=True)]
    if config.shuffled:
        rng.shuffle(sentences)
    asked = names[needed[-1]]
    return f"mod {config.modulus}: {'; '.join(sentences)}; {asked}?", [names[position] for position in needed]


def _sentence(name: str, quantity: Quantity, names: Sequence[str]) -> str:
    left, right = (str(x) if is_literal else names[x] for is_literal, x in (quantity.left, quantity.right))
    return f"{name}={left}{quantity.op}{right}"


def _with_distractors(
    config: SynthConfig, quantities: Sequence[Quantity], rng: random.Random
) -> tuple[list[Quantity], list[int]]:
    """Insert quantities the answer does not need at random places; they use literals and whatever stands before them.

    Returns: all quantities, their operands re-indexed, and the new index of each given one.
    """
    kinds = [True] * len(quantities) + [False] * config.distractors
    rng.shuffle(kinds)
    everything: list[Quantity] = []
    moved: list[int] = []
    for is_needed in kinds:
        if is_needed:
            quantity = quantities[len(moved)]
            left, right = (
                (is_literal, x if is_literal else moved[x]) for is_literal, x in (quantity.left, quantity.right)
            )
            moved.append(len(everything))
            needs = tuple(moved[i] for i in quantity.needs)
            everything.append(Quantity(quantity.op, left, right, needs, quantity.equation, quantity.value))
        else:
            own = everything and rng.random() < 0.5
            operand = (False, rng.randrange(len(everything))) if own else (True, rng.randrange(config.modulus))
            everything.append(_quantity(rng, config.modulus, [operand], everything))
    return everything, moved

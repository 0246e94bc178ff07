"""graphs: generated problems in the form of ProsQA, made-up is-a statements; offline, seeded, splits without overlap.

    question  Every rorpus is a zumpus. Tom is a lempus. ... Every lempus is a rorpus. Is Tom a zumpus or gwompus?
    steps     "Tom is a lempus." "Every lempus is a rorpus." "Every rorpus is a zumpus."
    answer    Tom is a zumpus.

The training set of ProsQA (Hao et al., arXiv:2412.06769) is not in the usual data folder: what is trained here can be
evaluated on `prosqa` as well. Names, wording and form of the answer are the published ones, and problems are drawn such
that the statistics agree (means of the 800 published validation and test problems, and of 2,000 of ours):

    nodes             22.8   22.7      edges            36.0   36.5      entities   2.56   2.48
    steps             3.77   3.79      of 3, 4, 5, 6+   .41 .44 .13 .02         .42 .40 .14 .03
    shortest paths    1.59   1.6       words asked      179    181

- A graph begins with two entities. A further node gets a Poisson number of parents, of one entity's side or of any,
  deep ones more often; one without parents is an entity itself or left out. The answer is a deepest leaf of one side,
  the other candidate any leaf of the other side, so that the answer follows and the other candidate does not. The steps
  are a shortest path to the answer, drawn where there are several.
- Splits are disjoint by construction: a keyed hash of the canonical graph, whatever the names and the order of the
  statements, says which split a problem belongs to. Outside training no graph comes twice.
- Names are drawn anew for every problem and the candidates are in random order: a name or a place is no hint. The
  number of statements is one: the candidate that fewer of them end in is right in two of three problems, in the
  published set as in this one. A score below 0.67 shows no reasoning.

The tokenizer of the embedded backbone reads these words byte by byte, a problem with chain and answer as 1,050 tokens
(1,600 at most); with `model.words=graphs` they are tokens of their own, and a problem has 204 (302).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice, pairwise
from operator import or_
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import Positive, ProblemCount
from latbench.data.rows import rows_hash
from latbench.registry import register_task, unknown
from latbench.task import STRICT, Example, Fingerprint, Score, Task, TaskConfig

ENTITIES = (
    "Alex", "Bob", "Carol", "Davis", "Eva", "Fae", "Gabriel", "Jack", "Max", "Oliver", "Polly", "Rex", "Sally", "Sam",
    "Stella", "Tom", "Wren",
)  # fmt: skip
CONCEPTS = (
    "bompus", "boompus", "brimpus", "chorpus", "dumpus", "felpus", "fompus", "gerpus", "gorpus", "grimpus", "gwompus",
    "hilpus", "impus", "jelpus", "jompus", "kerpus", "lempus", "lorpus", "numpus", "quimpus", "rempus", "rompus",
    "rorpus", "scrompus", "shumpus", "sterpus", "storpus", "terpus", "timpus", "tumpus", "vumpus", "worpus", "wumpus",
    "yerpus", "yimpus", "yumpus", "zhorpus", "zumpus",
)  # fmt: skip
SPLIT_SHARES = {"train": 80, "validation": 10, "test": 10}  # percent of all canonical graphs
SPLIT_KEY = b"latbench graphs"  # of the hash that assigns a graph to a split, whatever the settings and the seed
MAX_DRAWS = 5000  # in a row without a new problem; then the settings have too few

# Sides: a bit set of the two first entities that a node follows from. Which sides the parents of a node are taken from,
# and how often; fitted to the published graphs, as are the two numbers below.
FIRST, SECOND = 1, 2
PARENT_SIDES = ({0, FIRST}, {0, SECOND}, {0, FIRST, SECOND, FIRST | SECOND})
SIDE_WEIGHTS = (0.35, 0.455, 0.195)
DEPTH_WEIGHT = 1.5  # a node at depth d is taken as a parent with weight 1 + 1.5 d
FURTHER_ENTITY = 0.15  # probability that a node without parents is an entity; else it is left out


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class GraphsConfig(TaskConfig):
    """Which problems and how many; the defaults are the statistics and the sizes of the published set."""

    num_nodes: Annotated[int, Field(ge=6, le=40)] = 28
    """Nodes drawn for a graph; those in no statement are left out, on average a fifth. There are names for 38
    classes."""
    mean_parents: Annotated[float, Field(gt=0, le=10)] = 1.5
    """Mean of the Poisson distribution that a node's number of parents is drawn from."""
    min_steps: Positive = 3
    """Least number of statements from the entity to the answer."""
    max_steps: Positive | None = None
    """Greatest number of these statements; null: any."""
    seed: int = 0
    """Seed of the problems; splits share no graph and no text at any seed."""
    num_train: ProblemCount = 17_886
    """Training problems; the first n of a larger set are the same rows."""
    num_validation: ProblemCount = 300
    """Validation problems."""
    num_test: ProblemCount = 500
    """Test problems."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.min_steps > self.max_steps:
            raise ValueError(
                f"task.min_steps is {self.min_steps} but task.max_steps is {self.max_steps}; raise task.max_steps"
            )

    def size(self, split: str) -> int:
        """Number of examples of a split."""
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]


@dataclass(frozen=True)
class Graph:
    """A problem without its names.

    Args:
        parents: by node, earlier nodes; a node without is an entity, the others are classes.
        path: a shortest path from the entity that is asked about to the answer.
        other: the other candidate.
    """

    parents: tuple[tuple[int, ...], ...]
    path: tuple[int, ...]
    other: int

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(parent, child) pairs."""
        return [(parent, child) for child, parents in enumerate(self.parents) for parent in parents]


@register_task("graphs", config=GraphsConfig)
class Graphs(Task[GraphsConfig]):
    """Is-a statements over a random directed acyclic graph; `Example.meta` has the fields of `prosqa`: idx_to_symbol,
    edges, root, target, neg_target."""

    splits = tuple(SPLIT_SHARES)
    disjoint_splits = True
    words = (*ENTITIES, *CONCEPTS, "Every ", "Is ", " is a ", " a ", " or ", ". ")

    def __init__(self, config: GraphsConfig) -> None:
        super().__init__(config)
        self._loaded: dict[str, list[Example]] = {}

    def load(self, split: str) -> list[Example]:
        """The split's examples; the same call returns the same rows.

        Raises: ValueError: unknown split, or the settings have too few different problems.
        """
        if split not in self.splits:
            raise unknown(f"{self.name} split", split, self.splits)
        if split not in self._loaded:
            self._loaded[split] = list(islice(_examples(self.config, split), self.config.size(split)))
        return list(self._loaded[split])

    def fingerprint(self, split: str) -> Fingerprint:
        """Generator name with its settings, and the hash of the rows' canonical JSON."""
        examples = self.load(split)
        rows = [{"question": e.question, "steps": list(e.steps), "answer": e.answer} for e in examples]
        config = self.config
        steps = f"steps {config.min_steps}-{'' if config.max_steps is None else config.max_steps}"
        settings = f"{config.num_nodes} nodes, {config.mean_parents:g} parents, {steps}, seed {config.seed}"
        sha256 = rows_hash((example.id, row) for example, row in zip(examples, rows, strict=True))
        return Fingerprint(source=f"graphs: {settings}", sha256=sha256, num_examples=len(examples))

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """The answer's sentence, as for `prosqa`."""
        from latbench.answers.scoring import score_answers  # here: tasks load without the checker

        answers = [(text, example.answer) for text, example in pairs]
        return score_answers(answers, "text", self.config.scorer, self.config.run_on)


# graphs


def _graphs(config: GraphsConfig, split: str) -> Iterator[Graph]:
    """Endless graphs of a split; outside training no canonical one comes twice."""
    rng = random.Random(f"graphs {config.seed} {split}")
    seen: set[str] = set()
    while True:
        for _ in range(MAX_DRAWS):
            graph = _draw(rng, config)
            if graph is None:
                continue
            form = canonical(graph)
            if _split_of(form) == split and form not in seen:
                break
        else:
            raise ValueError(
                f"task graphs finds no further {split} problem after {len(seen)}; "
                f"lower task.num_{split} or task.min_steps, or raise task.num_nodes"
            )
        if split != "train":
            seen.add(form)
        yield graph


def _draw(rng: random.Random, config: GraphsConfig) -> Graph | None:
    """A graph with its two candidates; None where it has none that the settings allow."""
    parents: list[list[int]] = [[], []]
    sides, depths = [FIRST, SECOND], [0, 0]
    for _ in range(config.num_nodes - 2):
        count = _poisson(rng, config.mean_parents)
        if not count and rng.random() >= FURTHER_ENTITY:
            continue
        allowed = rng.choices(PARENT_SIDES, SIDE_WEIGHTS)[0]
        chosen = _sample(rng, [node for node, side in enumerate(sides) if side in allowed], depths, count)
        parents.append(chosen)
        sides.append(reduce(or_, (sides[parent] for parent in chosen), 0))
        depths.append(1 + min((depths[parent] for parent in chosen), default=-1))
    has_child = {parent for chosen in parents for parent in chosen}
    leaves = [
        [node for node, side in enumerate(sides) if side == own and parents[node] and node not in has_child]
        for own in (FIRST, SECOND)
    ]
    if not all(leaves):
        return None
    distances = [_distances(parents, root) for root in (0, 1)]
    steps = max(distances[root][leaf] for root in (0, 1) for leaf in leaves[root])
    if not config.min_steps <= steps <= (config.max_steps or steps):
        return None
    root, target = rng.choice([(r, leaf) for r in (0, 1) for leaf in leaves[r] if distances[r][leaf] == steps])
    other = rng.choice(leaves[1 - root])
    path = _shortest_path(rng, parents, distances[root], target)
    kept = [node for node in range(len(parents)) if parents[node] or node in has_child]
    number = {node: index for index, node in enumerate(kept)}
    graph = Graph(
        parents=tuple(tuple(number[parent] for parent in parents[node]) for node in kept),
        path=tuple(number[node] for node in path),
        other=number[other],
    )
    num_entities = sum(not chosen for chosen in graph.parents)
    fits = num_entities <= len(ENTITIES) and len(kept) - num_entities <= len(CONCEPTS)
    return graph if fits else None


def _poisson(rng: random.Random, mean: float) -> int:
    """By the number of arrivals in one unit of time."""
    count, left = 0, rng.expovariate(mean)
    while left < 1:
        count += 1
        left += rng.expovariate(mean)
    return count


def _sample(rng: random.Random, nodes: list[int], depths: Sequence[int], count: int) -> list[int]:
    """At most `count` different nodes, one after the other, deep ones more often."""
    chosen: list[int] = []
    left = list(nodes)
    while left and len(chosen) < count:
        (node,) = rng.choices(left, [1 + DEPTH_WEIGHT * depths[node] for node in left])
        chosen.append(node)
        left.remove(node)
    return chosen


def _distances(parents: Sequence[Sequence[int]], root: int) -> dict[int, int]:
    """Number of statements from the root to each node that follows from it; parents come before their children."""
    distances = {root: 0}
    for node, chosen in enumerate(parents):
        before = [distances[parent] for parent in chosen if parent in distances]
        if before:
            distances[node] = 1 + min(before)
    return distances


def _shortest_path(
    rng: random.Random, parents: Sequence[Sequence[int]], distances: dict[int, int], target: int
) -> list[int]:
    path = [target]
    while distances[path[0]]:
        before = [parent for parent in parents[path[0]] if distances.get(parent) == distances[path[0]] - 1]
        path.insert(0, rng.choice(before))
    return path


def canonical(graph: Graph) -> str:
    """Form of a problem that does not depend on the numbering of its nodes.

    Colour refinement: nodes are told apart by root, target and other candidate, then by the colours of parents and
    children. Different problems may share a form in rare cases, which makes the splits no less disjoint.
    """
    children: list[list[int]] = [[] for _ in graph.parents]
    for parent, child in graph.edges:
        children[parent].append(child)
    marks = {graph.path[0]: 1, graph.path[-1]: 2, graph.other: 3}
    colours = [marks.get(node, 0) for node in range(len(children))]
    num_colours = 0
    while len(set(colours)) > num_colours:
        num_colours = len(set(colours))
        signs = [
            (colour, tuple(sorted([colours[p] for p in parents])), tuple(sorted([colours[c] for c in followers])))
            for colour, parents, followers in zip(colours, graph.parents, children, strict=True)
        ]
        ranks = {sign: rank for rank, sign in enumerate(sorted(signs))}
        colours = [ranks[sign] for sign in signs]
    marked = [colours[node] for node in marks]
    return f"{marked} {sorted((colours[parent], colours[child]) for parent, child in graph.edges)}"


def _split_of(form: str) -> str:
    percentile = int.from_bytes(hashlib.blake2b(form.encode(), digest_size=8, key=SPLIT_KEY).digest()) % 100
    for split, share in SPLIT_SHARES.items():
        if percentile < share:
            return split
        percentile -= share
    raise AssertionError("shares sum to 100")


# wording


def _examples(config: GraphsConfig, split: str) -> Iterator[Example]:
    """Endless examples; names and order of the statements come from a stream of their own."""
    wording = random.Random(f"graphs wording {config.seed} {split}")
    for index, graph in enumerate(_graphs(config, split)):
        is_entity = [not parents for parents in graph.parents]
        entities = iter(wording.sample(ENTITIES, sum(is_entity)))
        concepts = iter(wording.sample(CONCEPTS, len(is_entity) - sum(is_entity)))
        names = [next(entities if entity else concepts) for entity in is_entity]
        said = [statement(names, *edge) for edge in graph.edges]
        wording.shuffle(said)
        root, target = graph.path[0], graph.path[-1]
        candidates = wording.sample([target, graph.other], 2)
        yield Example(
            id=f"{split}-{index}",
            question=" ".join([*said, question(names, root, candidates)]),
            steps=tuple(statement(names, *edge) for edge in pairwise(graph.path)),
            answer=statement(names, root, target),
            meta={
                "idx_to_symbol": names,
                "edges": [list(edge) for edge in graph.edges],
                "root": root,
                "target": target,
                "neg_target": graph.other,
            },
        )


def statement(names: Sequence[str], parent: int, child: int) -> str:
    """What an edge says; the names of entities alone are capitalised."""
    subject = names[parent] if names[parent][0].isupper() else f"Every {names[parent]}"
    return f"{subject} is a {names[child]}."


def question(names: Sequence[str], root: int, candidates: Sequence[int]) -> str:
    """What is asked about the root."""
    return f"Is {names[root]} a {' or '.join(names[node] for node in candidates)}?"

r"""Where a text says that its answer stands: \boxed{}, <answer>, ####, "answer": , "the answer is", headings, bold.

Every function reads its text a fixed number of times, so that hostile text costs linear time.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator

from latbench.answers.notation import normalise
from latbench.answers.spans import math_spans
from latbench.task import RunOn

MAX_MARKED_CHARS = 5000  # read after one marker
MAX_TRIED = 10  # of the places that one marker names, until one of them holds an answer
MAX_COMPARED_CHARS = 200  # of a box that is compared with its neighbours
_MAX_BETWEEN_BOXES = 60

_BOX = re.compile(r"\\(?:f?boxed|fbox)(?![A-Za-z])\s*")
_BARE_BOX = re.compile(r"[^\s${}\\.,]{1,200}")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;.&]|\\q?quad(?![A-Za-z])|\\[,;: ]|~|\\(?:text|mbox|textrm|mathrm)\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\\)|\\\()*"
)
_HASHES = re.compile(r"####(?!#)[ \t]*")
_TAG = re.compile(r"<(answer|final_answer)>", re.IGNORECASE)
_JSON = re.compile(
    r"""["'](?:final[_ ]?)?answer["']\s{0,20}:\s{0,20}"""
    r"""("(?:[^"\\]|\\.){0,2000}"|'[^'\n]{0,2000}'|\[[^\[\]\n]{0,2000}\]|[^\s,}\]"'][^,}\]\n]{0,2000})""",
    re.IGNORECASE,
)
_NAMES = (
    "answers?|ans|respuesta|r[ée]ponse|antwort|resposta|risposta|antwoord|svar|ответ|відповідь|答案|答え|答|정답|उत्तर"
)
_NEGATION = r"\b(?:is|are|was|can|could|must|should|wo|would|ca)(?:n'?t|n't|\s?not)(?: be)?\b"
_NAME_LIST = [*_NAMES.replace("?", "").replace("[ée]", "é").split("|"), "reponse"]
_COPULA = (
    rf"{_NEGATION}|\bis\b|\bare\b|:|=|-(?=\s)|\bequals\b|\b(?:would|should|must|will|can only) be\b"
    r"|\bcomes (?:out )?to\b|\bes\b|\best\b|\bist\b"
    r"|\blautet\b|\bé\b|\bè\b|\bär\b|是|为|為|は|은|는"
)
_PHRASE = re.compile(
    rf"(?<![A-Za-z])(?:{_NAMES})(?: (?:to|for|in) [^.:\n]{{0,80}}?| \([^()\n]{{0,40}}\)| finale?|,[a-z ,]{{0,20}},)?"
    rf"[\"'_]{{0,2}}[ \t]{{0,4}}\*{{0,2}}[ \t]{{0,4}}(?:{_COPULA})[ \t:*}}_]*"
    r"(?:(?:approximately|about|roughly|exactly|simply|just|therefore|thus|hence|then|given by|indeed|clearly)"
    r"(?![A-Za-z])[ \t:,]*)?",
    re.IGNORECASE,
)
_HEADING = re.compile(
    rf"^[ \t#*_>-]{{0,12}}(?:the )?(?:final |correct )?(?:{_NAMES})[ \t#*_:]{{0,12}}\n", re.IGNORECASE | re.MULTILINE
)
_REVERSED = re.compile(
    r"(?:\bis|\bare|=)\s{1,3}(?:the|our|my|your)\s(?:final |correct |required |desired )?answers?\b", re.IGNORECASE
)
_LEAD_IN = re.compile(r"(?:\bthe )?(?:\b(?:final|correct) )?$", re.IGNORECASE)  # of a phrase, not of the chain
_NEGATED = re.compile(_NEGATION, re.IGNORECASE)
_NUMBERED = re.compile(r"\d+[.):]\s*[A-Za-z*]")
_ANSWER_LIKE = re.compile(r"[-−+$€£(\\\s*]*\.?\d|\\|\$|[A-Za-z]\s*=|[([{|]")
_THINKING = re.compile(r"</?(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_QUESTION = re.compile(
    r"\n[ \t]*(?:\*\*|#{1,4} ?)?(?:Question|Problem|Exercise|Q|Human|User|Instruction)[ \t]?\d{0,4}[ \t]?(?:\*\*)?[:.]",
    re.IGNORECASE,
)
# A letter, one of the usual labels, or a few words that begin with a number or formula (`12 apples`).
_BARE_ANSWER = re.compile(
    r"\s*(?:[(\[]?[A-J][)\].:]?|(?:yes|no|true|false)\.?"
    r"|(?!\d+[.):]\s)[-−+$€£(\[{*]{0,4}(?:\.?\d|\\[a-z]+\{)\S*(?: \S+){0,3})\s*",
    re.IGNORECASE,
)
_ANY_MARKER = re.compile(
    rf"\\(?:f?boxed|fbox)(?![A-Za-z])|####[ \t]*[-$\d\\(]|</answer>|(?:{_NAMES})[ \t*]{{0,4}}(?:{_COPULA})",
    re.IGNORECASE,
)


def after_thinking(text: str) -> str:
    """The text after its last closed thinking part; text in a part that is not closed is no answer."""
    if "<" not in text:
        return text
    tags = list(_THINKING.finditer(text))
    closings = [tag for tag in tags if tag[0].startswith("</")]
    if closings:
        return text[closings[-1].end() :]
    return text[: tags[0].start()] if tags else text


def before_next_question(text: str) -> str:
    """The text up to a further question that a model put to itself after its answer (`Question: ...`).

    What comes before the question is an answer where a marker is in it, or where it is nothing but one.
    """
    question = _QUESTION.search(text)
    if question is None:
        return text
    if _BARE_ANSWER.fullmatch(text, 0, question.start()):
        return text[: question.start()]
    marker = _ANY_MARKER.search(text)
    if marker is None:
        return text
    question = _QUESTION.search(text, marker.end())
    return text[: question.start()] if question else text


def last_boxed(text: str) -> str | None:
    r"""Content of the last non-empty \boxed{} with balanced braces.

    Neighbouring boxes that commas, `and` or `or` join are one answer; equal ones among them count once.
    """
    if "box" not in text:
        return None
    closing = closing_braces(text)
    found: list[tuple[int, int, str]] = []  # (start, end, content), not nested in one another
    for match in _BOX.finditer(text):
        start, stop = match.end(), closing.get(match.end())
        if stop is None:
            bare = _BARE_BOX.match(text, start)
            content, end = (bare[0], bare.end()) if bare else ("", start)
        elif _BOX.match(text, start + 1):  # a box in a box: the inner one counts
            continue
        else:
            content, end = text[start + 1 : stop].strip(), stop + 1
        if content:
            found.append((match.start(), end, content))
    if not found:
        return None
    answers = [found[-1]]
    for box in reversed(found[:-1]):
        gap = text[box[1] : answers[-1][0]] if answers[-1][0] - box[1] <= _MAX_BETWEEN_BOXES else "x"
        if not _BETWEEN_BOXES.fullmatch(gap):
            break
        answers.append(box)
    if len(answers) == 1:
        return answers[0][2]
    distinct: dict[str, str] = {}
    for _, _, content in reversed(answers):
        distinct.setdefault(normalise(content) if len(content) <= MAX_COMPARED_CHARS else content, content)
    return ", ".join(distinct.values())


def closing_braces(text: str) -> dict[int, int]:
    """Position of the closing brace for each opening one; escaped braces do not count."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def marked(text: str, run_on: RunOn) -> Iterator[tuple[str, str]]:
    """(marker, what it points at), the strongest marker first, of phrases the last first.

    Args:
        run_on: which of several `####` counts.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        yield "box", boxed
    if "<" in text:
        tags = list(_TAG.finditer(text))
        if tags:
            rest = text[tags[-1].end() : tags[-1].end() + MAX_MARKED_CHARS]
            yield "tag", rest.partition(f"</{tags[-1][1]}>")[0].strip()
    if "####" in text:
        hashes = list(_HASHES.finditer(text))
        for match in hashes if run_on == "first" else reversed(hashes):
            line = rest_of_line(text, match.end()).partition("####")[0].strip()
            yield "hashes" if _heads_an_answer(line) else "heading", line
    lowered = text.lower()
    if not any(name in lowered for name in _NAME_LIST):
        return
    if "nswer" in text and ":" in text:
        for match in list(_JSON.finditer(text))[: -MAX_TRIED - 1 : -1]:
            yield "json", _unquoted(match[1])
    pointers = sorted([*_PHRASE.finditer(text), *_HEADING.finditer(text)], key=lambda match: match.end(), reverse=True)
    for match in pointers[:MAX_TRIED]:
        rest = rest_of_line(text, match.end())
        yield "phrase", f"not {rest}" if _NEGATED.search(match[0]) else rest
    for match in list(_REVERSED.finditer(text))[: -MAX_TRIED - 1 : -1]:
        yield (
            "reversed",
            re.split(r"\n|(?<=[^\d\s])[.:;,] ", text[max(0, match.start() - 200) : match.start()])[-1].strip(),
        )


def answer_start(text: str) -> int | None:
    """Index at which a text begins to say where its answer stands: the last marker of the strongest kind it has.

    Kinds and their order are those of `marked`, without "is the answer", which points back. None without a marker.
    """
    hashes = [match for match in _HASHES.finditer(text) if _heads_an_answer(rest_of_line(text, match.end()))]
    for matches in (_BOX.finditer(text), _TAG.finditer(text), hashes, _JSON.finditer(text)):
        if last := deque(matches, maxlen=1):
            return last[0].start()
    phrases = [match.start() for pattern in (_PHRASE, _HEADING) for match in pattern.finditer(text)]
    if not phrases:
        return None
    before = text[max(0, max(phrases) - 20) : max(phrases)]
    lead_in = _LEAD_IN.search(before)
    return max(phrases) - (len(lead_in[0]) if lead_in else 0)


def _heads_an_answer(line: str) -> bool:
    """Whether a line after #### is an answer and not the heading of a section (`#### 1. First step`)."""
    return _NUMBERED.match(line) is None and _ANSWER_LIKE.match(line) is not None


def phrase_within(text: str) -> str | None:
    """What the last `answer is` within a marked text points at."""
    last = deque(_PHRASE.finditer(text), maxlen=1)
    return text[last[0].end() :].strip() if last else None


def rest_of_line(text: str, start: int) -> str:
    """From a marker to the end of its line, or of the next line where the marker ends one; a display formula whole."""
    rest = text[start : start + MAX_MARKED_CHARS].lstrip()
    if rest.startswith(("$$", "\\[")):
        span = next(math_spans(rest), None)
        if span is not None and span.start == 0:
            return rest[: span.end]
    line, _, below = rest.partition("\n")
    if line.count("{") > line.count("}"):  # a group goes on below
        line = f"{line} {below.partition(chr(10))[0]}"
    return line.strip()


def _unquoted(value: str) -> str:
    """A JSON value as text; LaTeX whose backslashes are not escaped is left as it is."""
    value = value.strip()
    if value[:1] == '"' and ("\\\\" in value or "\\" not in value):
        try:
            return str(json.loads(value)).strip()
        except ValueError:
            return value.strip("\"'")
    return value.strip("\"'").strip()

"""Reading reference solutions: GSM8K lines, equation chains, MATH sentences, number texts.

What `steps` and `answer` of a row hold, for sources that give one solution text.
"""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import pairwise

EQUATION = re.compile(r"<<[^<>]*>>")
BREAK = re.compile(r"[.!?][)\]'\"]*(?=\s+[A-Z$\\\[(])|\n\s*\n")  # a sentence end or a blank line
FORMULA_END = re.compile(r"[.!?]\s*(?:\\\]|\\end\{[^}]*\}|\$\$?)$")  # the full stop stands inside the formula: `$x=1.$`
SENTENCE_START = re.compile(r"\s*[A-Z$\\\[(]")
# Formulas and figures; an unclosed one reaches to the end of the text.
VERBATIM = re.compile(
    r"\[asy\].*?(?:\[/asy\]|\Z)|\\\[.*?(?:\\\]|\Z)|\\begin\{(?P<environment>[a-z]+\*?)\}.*?(?:\\end\{(?P=environment)\}|\Z)"
    r"|\$\$.*?(?:\$\$|\Z)|(?<!\\)\$.*?(?:(?<!\\)\$|\Z)",
    re.DOTALL,
)


def gsm8k_solution(text: str) -> tuple[list[str], str]:
    """Steps and answer of a GSM8K solution: the lines before `####`, annotations kept, and what follows it.

    Raises: ValueError: no `####`.
    """
    reasoning, marker, answer = text.partition("####")
    if not marker:
        raise ValueError("field 'answer' has no #### before the final answer")
    return [line.strip() for line in reasoning.split("\n") if line.strip()], number_text(answer)


def equation_steps(chain: str) -> list[str]:
    """The `<<expression=value>>` items of a chain; none for an empty one (GSM8K-Aug, arXiv:2311.01460)."""
    return EQUATION.findall(chain)


def equation_line(line: str) -> tuple[str, list[str], str]:
    """Question, steps and answer of a GSM8k-Aug line `question||<<a=b>> <<c=d>> #### answer`.

    Split once on `||` and its right side once on `####`, so an empty chain gives no steps (and not one empty step).

    Raises: ValueError: a separator is missing.
    """
    question, bars, rest = line.partition("||")
    chain, marker, answer = rest.partition("####")
    if not bars or not marker:
        raise ValueError("the line is not `question||steps #### answer`")
    return question.strip(), equation_steps(chain), answer.strip().replace(",", "")


def math_sentences(solution: str) -> list[str]:
    """Sentences of a LaTeX solution, split at blank lines and at sentence ends, formulas and figures kept whole."""
    formulas = list(VERBATIM.finditer(solution))
    inside = {index for formula in formulas for index in range(*formula.span())}
    cuts = {match.end() for match in BREAK.finditer(solution) if match.start() not in inside}
    cuts |= {
        formula.end()
        for formula in formulas
        if FORMULA_END.search(formula[0]) and SENTENCE_START.match(solution, formula.end())
    }
    bounds = [0, *sorted(cuts), len(solution)]
    pieces = [solution[start:end].strip() for start, end in pairwise(bounds)]
    return [piece for piece in pieces if piece]


def number_text(value: float | str) -> str:
    """A source's number as a plain decimal: no thousands commas, no blanks, no exponent, no `.0`.

    Text that is no number comes back as it is, for the check of gold answers to refuse.
    """
    text = str(value).strip()
    try:
        number = Decimal(text.replace(",", ""))
        return format(number.to_integral_value() if number == number.to_integral_value() else number, "f")
    except ArithmeticError:
        return text

"""One spelling for LaTeX, Unicode and plain-text answers.

`plain_characters` is cheap at any length. Callers of `normalise` cap what they pass; every pattern is then cheap.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_INVISIBLE = dict.fromkeys([*range(0x200B, 0x2010), 0x2060, 0xFEFF, 0x00AD])
_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "‐": "-", "‑": "-", "‒": "-", "⁄": "/", "∕": "/", "⧸": "/",
        "’": "'", "º": "°", "˚": "°", "“": '"', "”": '"', "、": ",", "。": ".", "′": "'", "∗": "*", "∶": ":", "∣": "|",
    }
)  # fmt: skip
_SYMBOLS = {
    "×": "times", "✕": "times", "·": "cdot", "⋅": "cdot", "∙": "cdot", "•": "cdot", "÷": "div", "∞": "infty",
    "≤": "le", "⩽": "le", "≦": "le", "≥": "ge", "⩾": "ge", "≧": "ge", "≠": "ne", "∪": "cup", "∩": "cap",
    "±": "pm", "∓": "mp", "∈": "in", "≈": "approx", "≃": "approx", "≅": "approx", "∅": "emptyset", "∖": "setminus",
    "⟨": "langle", "⟩": "rangle", "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil", "∑": "sum", "∏": "prod",
    "∨": "lor", "∧": "land", "ϕ": "phi", "ϵ": "epsilon",
}  # fmt: skip
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau"
_SYMBOLS |= {chr(0x3B1 + i): name for i, name in enumerate((_GREEK + " upsilon phi chi psi omega").split())}
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
_SYMBOLS |= dict(zip("ΓΔΘΛΞΠΣΦΨΩ", _CAPITALS.split(), strict=True))
_TO_LATEX = str.maketrans(
    {sign: f"\\{name} " for sign, name in _SYMBOLS.items()}
    | {"°": "^\\circ ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "∛": "\\sqrt[3]"}
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾", "0123456789+-ni()", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n", strict=True))
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"


_SMALL_FRACTION = re.compile(r"(?<![⁰¹²³⁴-⁹])([⁰¹²³⁴-⁹]{1,6})[/⁄]([₀-₉]{1,6})(?![₀-₉])")


def _small_fraction(found: re.Match[str]) -> str:
    top, bottom = (unicodedata.normalize("NFKC", digits) for digits in found.groups())
    return f"\\frac{{{top}}}{{{bottom}}}"


def plain_characters(text: str) -> str:
    """The text with plain digits, signs, spaces and punctuation for their Unicode variants; LaTeX is left alone.

    Superscripts, subscripts and fractions become `^{..}`, `_{..}` and `\\frac{..}{..}`.
    """
    if text.isascii():
        return text
    text = text.translate(_INVISIBLE)
    text = _SMALL_FRACTION.sub(_small_fraction, text)
    text = re.sub(f"[{''.join(_RAISED)}]+", lambda found: f"^{{{''.join(map(_RAISED.__getitem__, found[0]))}}}", text)
    text = re.sub(f"[{''.join(_LOWERED)}]+", lambda found: f"_{{{''.join(map(_LOWERED.__getitem__, found[0]))}}}", text)
    text = re.sub(f"[{_VULGAR}]", _vulgar, text).translate(_SIGNS)
    text = re.sub(r"[^\x00-\x7fℝℤℕ]+", lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return re.sub(r"[^\x00-\x7f\D]", lambda found: str(unicodedata.digit(found[0])), text)


def _vulgar(found: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", found[0]).split("⁄")
    return f"\\frac{{{top}}}{{{bottom}}}"


TEXT_BOX = r"\\text\{([^{}]*)\}"
_WORDS = "sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|pi|theta"
# (what must occur in the text, pattern, replacement); the first, a text or several, saves the search for most patterns
_REWRITES = [
    ((needed,) if isinstance(needed, str) else needed, re.compile(pattern), replacement)
    for needed, pattern, replacement in (
        ("", r"[\x00-\x08\x0e-\x1f\x7f]", ""),
        ("", r"\s+", " "),  # first: no pattern below meets a long run of spaces
        ("**", r"^\s*\*\*|\*\*\s*$", ""),  # Markdown bold
        (r"\$", r"\\\$", "¤"),  # currency; bare $ are math delimiters
        ("$", r"^(\s*-?\s*)\$(?=\s*[\d.][\d,.]*\s*(?:[A-Za-z][A-Za-z ]*)?$)", r"\1¤"),
        (r"\\", r"(\\\\)\s*\[\s*-?[\d.]+\s*(?:pt|e[mx]|[cm]m|in)\s*\]", r"\1"),  # the row spacing of a matrix
        (("\\", "$"), r"\\[()\[\]](?<!\\\\.)|\$", ""),
        (",", r",\s*\\!\s*(?=\d{3})|\{,\}(?=\d{3})|,(?=\\,\d{3})", ""),  # a comma set tight is a thousands separator
        ("{,}", r"\\text\{,\}(?=\d{3})", ""),
        ("\\", r"\\(?:left|middle|right|[bB]igg?[lmr]?|displaystyle|textstyle|limits|bf|rm|it)(?![A-Za-z])\.?", ""),
        (r"\!", r"(?<!\\)\\!\s*", ""),
        (("\\", "~"), r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))", ""),
        ("'", r"(?<![\d'])(\d{1,3}(?:'\d{3})+)(?![\d'])", lambda found: found[1].replace("'", "")),
        ("_", r"(?<![\d_])(\d{1,3}(?:_\d{3})+)(?![\d_])", lambda found: found[1].replace("_", "")),
        (("\\", "~"), r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        ("frac", r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\over", r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\choose", r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        ("binom", r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (("math", "bold", "bm"), r"\\(?:math(?:rm|it|bf|sf)|boldsymbol|bm)\s*\{\s*([ie]|\d+)\s*\}", r"\1"),
        (("math", "bold", "bm"), r"\\(?:math(?:it|bf|sf)|boldsymbol|bm)\s*\{\s*([A-Za-z])\s*\}", r"\1"),
        (("oper", "math", "text"), rf"\\(?:operatorname\*?|mathrm|text)\s*\{{\s*({_WORDS})\s*\}}", r"\\\1 "),
        (
            ("box", "text", "math", "oper"),
            r"\\(?:mbox|textbf|textrm|textit|textnormal|textsf|mathrm|operatorname|mathbf)\s*\{",
            r"\\text{",
        ),
        (r"\text", r"\\text\s+\{", r"\\text{"),
        (("vert", "mid"), r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        ("langle", r"\\langle(?![A-Za-z])", "("),
        ("rangle", r"\\rangle(?![A-Za-z])", ")"),
        ("brace", r"\\lbrace(?![A-Za-z])", r"\\{"),
        ("brace", r"\\rbrace(?![A-Za-z])", r"\\}"),
        (("mathbb", r"\R"), r"\\(?:mathbb\s*\{?\s*R\s*\}?|R(?:eals)?(?![A-Za-z]))", r"\\mathbb{R}"),
        ("dot", r"\\dot\{?(\d)\}?(\d*)\\dot\{?(\d)\}?", r"\\overline{\1\2\3}"),
        (("bar", "dot", "overline"), r"(?<=[.\d])\\(?:bar|dot|overline)\s*\{?\s*(\d+)\s*\}?", r"\\overline{\1}"),
        ("(", r"(?<![\w.])(\d+\.\d*)\((\d+)\)", r"\1\\overline{\2}"),
        (
            ("...", "dots"),
            r"(?<![\d.])(\d{1,9}\.\d{0,9}?)(\d{1,9}?)\2{2,}\s*(?:\.\.\.|\\[lc]?dots(?![A-Za-z]))",
            r"\1\\overline{\2}",
        ),
        ("text", r"(?<=[\d+\-)}])\s*\\text\{\s*i\s*\}", "i"),
        ("{}", r"\{\}\s*(?=\^)", ""),
        (("circ", "degree"), r"\^\s*\{?\s*(?:\\circ|\\degree)\s*\}?|\\degree(?![A-Za-z])", r"^\\circ"),
        ("%", r"\\%", "%"),
        (r"\text{", r"\\text\{([\s\d.,%+¤€£-]*)\}", r"\1"),  # no letters: a number set as text
        (r"\text{", r"^\\text\{(\s*-?[\d.][^{}]*)\}$", r"\1"),  # \text{5 cm}
        (("\\le", "<=", "=<"), r"\\leq?(?:q|slant)?(?![A-Za-z])|<=|=<", r"\\le "),
        (("\\ge", ">="), r"\\geq?(?:q|slant)?(?![A-Za-z])|>=", r"\\ge "),
        (("\\n", "!="), r"\\neq?(?![A-Za-z])|!=|\\not\s*=", r"\\ne "),
        (r"\lt", r"\\lt(?![A-Za-z])", "<"),
        (r"\gt", r"\\gt(?![A-Za-z])", ">"),
        (
            ("and", "or", ",", "vee", "wedge"),
            r"^((?:[^<>\\]|\\(?!le |ge |ne ))*)$",
            lambda found: _joined(found[1]),
        ),  # no inequality
        (("or", "vee"), r"\\text\{\s*,?\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\vee(?![A-Za-z])", r"\\lor "),
        (("and", "wedge"), r"\\text\{\s*,?\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z])|\\wedge(?![A-Za-z])", r"\\land "),
        (
            "array",
            r"[(\[]\s*\\begin\{array\}\s*(?:\{[^{}]*\})?([^()\[\]]*)\\end\{array\}\s*[)\]]",
            r"\\begin{pmatrix}\1\\end{pmatrix}",
        ),
        ("matrix", r"\\(begin|end)\{(?:smallmatrix|Bmatrix)\}", r"\\\1{pmatrix}"),
        ("base", r"^\(?([0-9A-Z]+)\)?\s*(?:\\text\{)?\s*(?:in )?base[ -](\w+)\s*\}?$", r"\1_{\2}"),
        (("varnothing", "}"), r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"),
        ("]", r"^\]([^\[\]]+)([\[\]])$", lambda found: f"({found[1]}{')' if found[2] == '[' else ']'}"),  # ]1, 2[
        ("[", r"^\[([^\[\]]+)\[$", r"[\1)"),
        ("backslash", r"\\backslash(?![A-Za-z])", r"\\setminus"),
        ("frac", r"\\frac\s*([0-9A-Za-z])", r"\\frac{\1}"),  # \frac12, \frac9{19}
        ("frac", r"\\frac\s*(\{[^{}]*\})\s*([0-9A-Za-z])", r"\\frac\1{\2}"),
        ("frac", r"\\frac\s*\{\s*([^{}]*?)\s*\}\s*\{\s*([^{}]*?)\s*\}", r"\\frac{\1}{\2}"),
        ("√", r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        ("√", r"√", r"\\sqrt"),
        ("sqrt", r"(?<![\\A-Za-z])sqrt\s*(\d+)", r"\\sqrt{\1}"),
        (_WORDS.split("|"), rf"(?<![\\A-Za-z])({_WORDS})(?=$|[^A-Za-z]|[xyr](?![A-Za-z]))", r"\\\1 "),
        ("sqrt", r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        ("**", r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w(\\{.-])", "^"),  # the power sign of programming languages
        ("infinity", r"(?<![\\A-Za-z])infinity(?![A-Za-z])", r"\\infty"),
        ("", r"\s+", " "),
    )
]
_OF_COMMANDS = frozenset(
    [
        "frac",
        "binom",
        "math",
        "bold",
        "bm",
        "oper",
        "text",
        "box",
        "vert",
        "mid",
        "langle",
        "rangle",
        "brace",
        "array",
        "matrix",
        "circ",
        "backslash",
        "mathbb",
        "varnothing",
        "degree",
        "{}",
        "{,}",
        "dot",
        "bar",
        "overline",
    ]
)
_REWRITES_WITHOUT_COMMANDS = [
    rule for rule in _REWRITES if not all("\\" in part or part in _OF_COMMANDS for part in rule[0])
]
_TEXT_BOX = re.compile(TEXT_BOX)
_ROUND = re.compile(r"\(\s*([^()]*?)\s*\)")
_TEXT_ALONE = re.compile(rf"\(?\s*{TEXT_BOX}\s*\)?")
_LETTERS_ALONE = re.compile(r"[A-Za-z'. -]+")
_WORD_LIKE = re.compile(r"[A-Za-z]{4}")
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def _joined(text: str) -> str:
    """Items of a list joined by commas alone; `or` and `and` between inequalities mean more."""
    text = re.sub(r"\\text\{\s*,?\s*(?:and|or)\s*\}", ", ", text)
    text = re.sub(r"^\\text\{([^{}]*(?:[,;]|\sand\s|\sor\s)[^{}]*)\}$", r"\1", text)  # \text{A, B}
    text = re.sub(r",?\s+(?:and|or|\\lor|\\vee|\\land|\\wedge)\s+", ", ", text)
    return re.sub(r",\s*,", ", ", text)


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """The text with one spelling for delimiters, spacing, fractions, text boxes, thousands separators and relations."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    text = plain_characters(text).translate(_TO_LATEX).strip()
    for needed, pattern, replacement in _REWRITES if "\\" in text else _REWRITES_WITHOUT_COMMANDS:
        for part in needed:
            if part in text:
                text = pattern.sub(replacement, text)
                break
    return _single_braces(text).strip().rstrip(".,;").strip()


def _single_braces(text: str) -> str:
    """Without braces that directly enclose other braces, or the whole text: `{{5}}` is `5`."""
    if "{{" not in text and not text.startswith("{"):
        return text
    closing, opened = dict[int, int](), list[int]()
    for found in re.finditer(r"\\.|[{}]", text):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            closing[opened.pop()] = found.start()
    dropped = {
        position for start, end in closing.items() if closing.get(start - 1) == end + 1 for position in (start, end)
    }
    text = "".join(character for position, character in enumerate(text) if position not in dropped)
    while text.startswith("{") and len(closing) and _encloses_all(text):
        text = text[1:-1].strip()
    return text


def _encloses_all(text: str) -> bool:
    depth = 0
    for found in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end() == len(text)
    return False


def text_key(text: str) -> str:
    """What two equal texts share: no boxes, outer brackets, quotes or final punctuation; case and spacing ignored."""
    plain = (_TEXT_BOX.sub(r"\1", text) if "text" in text else text).strip(" .,;:!?\"'`*")
    inner = _ROUND.fullmatch(plain) if plain[:1] == "(" else None
    return " ".join((inner[1] if inner else plain).casefold().split())


def is_text(text: str) -> bool:
    """Whether an answer is words, not mathematics: a text box with a letter in it, or at least four bare letters."""
    box = _TEXT_ALONE.fullmatch(text)
    if box:
        return any(character.isalpha() for character in box[1])
    return _LETTERS_ALONE.fullmatch(text) is not None and _WORD_LIKE.search(text) is not None

"""Reading reference solutions into steps and answers."""

from __future__ import annotations

import pytest

from latbench.data.solutions import equation_steps, gsm8k_solution, math_sentences, number_text


@pytest.mark.parametrize(
    ("solution", "sentences"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("One.\n\nand two", ["One.", "and two"]),
        ("It is $3.5$ metres. Thus $x = 2. Y$ holds.", ["It is $3.5$ metres.", "Thus $x = 2. Y$ holds."]),
        ("Let $x=1.$ Then $y=2.$", ["Let $x=1.$", "Then $y=2.$"]),
        (r"See \[a = b.\]So it is.", [r"See \[a = b.\]", "So it is."]),
        (r"\begin{align}a &= b.\\ C &= d.\end{align}So.", [r"\begin{align}a &= b.\\ C &= d.\end{align}", "So."]),
        ("[asy]\na; // One. Two.\n\nb;\n[/asy]\n\nDone.", ["[asy]\na; // One. Two.\n\nb;\n[/asy]", "Done."]),
        (r"It costs \$3. Two cost \$6.", [r"It costs \$3.", r"Two cost \$6."]),
        ("Then $x = 1. Never closed", ["Then $x = 1. Never closed"]),
        ("  \n\n ", []),
    ],
)  # fmt: skip
def test_sentences_end_outside_formulas_and_figures(solution: str, sentences: list[str]) -> None:
    assert math_sentences(solution) == sentences


def test_sentences_joined_are_the_solution_up_to_white_space() -> None:
    solution = 'Let $x=1.$ Then\n\n\\[y = 2.\\]Also z. "Quoted." So (really) done! Yes? No.'
    assert "".join("".join(math_sentences(solution)).split()) == "".join(solution.split())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" 1,234.0 ", "1234"),
        (-9867630.0, "-9867630"),
        (3244047.0999999996, "3244047.0999999996"),
        (1e-7, "0.0000001"),
        (5e20, "500000000000000000000"),
        ("073", "73"),
        (27, "27"),
        ("-0.0", "-0"),
        ("1/2", "1/2"),
        ("no number", "no number"),
    ],
)
def test_numbers_become_plain_decimals_and_other_text_stays(value: float | str, text: str) -> None:
    assert number_text(value) == text


def test_gsm8k_lines_keep_annotations_and_drop_the_answer_line() -> None:
    assert gsm8k_solution("A <<1+1=2>>2.\n\n B.\n#### 2,000") == (["A <<1+1=2>>2.", "B."], "2000")


def test_an_empty_equation_chain_has_no_steps() -> None:
    assert equation_steps("") == []
    assert equation_steps("<<1+1=2>> <<2*3=6>>") == ["<<1+1=2>>", "<<2*3=6>>"]

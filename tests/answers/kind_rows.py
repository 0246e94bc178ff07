r"""Rows of (gold, answer text, status) by the kind of mistake that a checker can make on them.

a: what a marker points at is read as a whole. b: a marker that points at prose. c: words, lists, thinking parts, units
and approximations. d: exact values. e: notation. f: texts that run on (in `test_answers_extract.py`). g: time.
"""

from __future__ import annotations

from latbench.answers.extract import AnswerKind
from latbench.task import Status

KindRow = tuple[AnswerKind, str, str, Status]

WHOLE: list[KindRow] = [
    *(
        ("number", gold, rf"So we get \boxed{{{inner}}}.", status)
        for gold, inner, status in [
            ("4", r"4\pi", "incorrect"),
            ("6", "2^{6}", "incorrect"),
            ("64", "2^{6}", "correct"),
            ("4", "4!", "incorrect"),
            ("24", "4!", "correct"),
            ("9", r"\frac{9}{y}", "incorrect"),
            ("6", r"6\times10^2", "incorrect"),
            ("600", r"6\times10^2", "correct"),
            ("0.06", r"6\cdot 10^{-2}", "correct"),
            ("4", "(4, 9)", "incorrect"),
            ("21", r"k \ge 21", "incorrect"),
            ("21", r"21 < k < 40", "incorrect"),
            ("21", r"k \ne 21", "incorrect"),
            ("5", "5 or 6", "incorrect"),
            ("5", r"5 \text{ or } 6", "incorrect"),
            ("5", "5, 6", "incorrect"),
            ("5", r"\{5, 6\}", "incorrect"),
            ("5", r"\{5\}", "correct"),
            ("5", r"\pm 5", "incorrect"),
            ("5", "5i", "incorrect"),
            ("5", "5 + 2i", "incorrect"),
            ("5", "5 : 6", "incorrect"),
            ("0.25", r"\frac14", "correct"),
            ("1", r"\frac14", "incorrect"),
            ("-0.25", r"-\frac{1}{4}", "correct"),
            ("3.5", r"3\frac12", "correct"),
            ("3", r"3\frac12", "incorrect"),
            ("12", "10 + 2", "correct"),
            ("10", "10 + 2", "incorrect"),
            ("7", r"\sqrt{49}", "correct"),
            ("49", r"\sqrt{49}", "incorrect"),
            ("310", "x_2 = 310", "correct"),
            ("310", "S_{10} = 310", "correct"),
            ("2", "x_2 = 310", "incorrect"),
            ("310", "g(4) = 310", "correct"),
            ("4", "g(4) = 310", "incorrect"),
            ("310", r"p + q = 300 + 10 = 310", "correct"),
            ("310", r"3^5 + 67 = 310", "correct"),
            ("310", r"\angle ABC = 310^\circ", "correct"),
            ("2345678", r"2\,345\,678", "correct"),
            ("2345678", r"2~345~678", "correct"),
            ("2345678", "2 345 678", "correct"),
            ("2345678", "2'345'678", "correct"),
            ("2345678", r"2{,}345{,}678", "correct"),
            ("2345678", r"2,\!345,\!678", "correct"),
            ("7000000", "7 million", "correct"),
            ("7", "7 million", "incorrect"),
            ("7", r"\frac{7x}{3}", "incorrect"),
            ("15", r"15\text{ km}", "correct"),
            ("15", r"15\%", "correct"),
            ("15", r"\$15", "correct"),
            ("20", r"\binom{6}{3}", "correct"),
            ("10", r"\log_2 1024", "correct"),
        ]
    ),
    *(
        ("number", gold, f"The answer is {words}.", status)
        for gold, words, status in [
            ("6", "not 6", "incorrect"),
            ("7", "not 6 but 7", "correct"),
            ("6", "more than 6", "incorrect"),
            ("6", "at least 6", "incorrect"),
            ("6", "at most 6", "incorrect"),
            ("6", "between 6 and 9", "incorrect"),
            ("6", "6 to 9", "incorrect"),
            ("6", "6-9", "incorrect"),
            ("6", "either 6 or 7", "incorrect"),
            ("6", "6 or more", "incorrect"),
            ("6", "6 hundred", "incorrect"),
            ("600", "6 hundred", "correct"),
            ("2.5", "2 1/2", "correct"),
            ("0.5", "one half", "correct"),
            ("1.5", "one and a half", "correct"),
            ("5000", "5 x 10^3", "correct"),
            ("5", "5 x 10^3", "incorrect"),
            ("5000", "5 × 10³", "correct"),
            ("36", "6^2 = 36", "correct"),
            ("14", "fourteen", "correct"),
            ("14", "$14 per day", "correct"),
            ("14", "14 km/h", "correct"),
            ("14", "about 14", "correct"),
            ("4", "8 apples - 4 apples = 4 apples", "correct"),
            ("540", "9*60=<<9*60=540>>540", "correct"),
        ]
    ),
    ("number", "6", "The answer isn't 6.", "incorrect"),
    ("number", "14", "The answer is 14!", "correct"),
    ("number", "6", "The answer cannot be 6.", "incorrect"),
]

PROSE: list[KindRow] = [
    ("number", "31", text, "correct")
    for text in (
        "Final Answer: The required sum is $31$.",
        "Final Answer: The final answer is $31$. I hope it is correct.",
        r"\boxed{\text{Answer: } 31}",
        r"\boxed{\text{The sum is } 31}",
        "**The answer is 31.**",
        "**Answer**\n\n31",
        "## Final Answer\nThere are 31 of the 40 left.",
        "### Final Answer: 31 ###",
        "<answer>31</answer>, not 30",
        "<answer>The sum is 31.</answer>",
        '{"answer": 31}',
        '{"steps": "3 and 4", "answer": "31 coins", "n": 2}',
        "{'final_answer': 31}",
        "So 31 is the answer, not 30.",
        "Out of 40 we keep **31** of them.",
        "答案：31",
        "答案是 31。",
        "最终答案是：31",
        "答え: 31",
        "La respuesta es 31.",
        "La réponse est 31.",
        "Die Antwort lautet 31.",
        "Ответ: 31",
        "A resposta é 31.",
        "31 元",
    )
] + [
    ("math", gold, text, status)
    for gold, text, status in [
        (r"\frac{5}{6}", r"Final Answer: The probability that both are red is $\frac{5}{6}$.", "correct"),
        (r"\frac{5}{6}", r"**The ratio is $\frac{5}{6}$.**", "correct"),
        (r"\frac{5}{6}", r'{"answer": "\\frac{5}{6}"}', "correct"),
        (r"\frac{5}{6}", r'{"answer": "\frac{5}{6}"}', "correct"),
        (r"\frac{5}{6}", r"Donc la probabilité vaut $\frac{5}{6}$.", "correct"),
        (r"\frac{5}{6}", r"La razón es $\frac{5}{6}$.", "correct"),
        ("8", "Die Lösung ist $x = 8$.", "correct"),
        ("8", r"\boxed{8\text{本}}", "correct"),
        ("8", "8 Stück", "correct"),
        ("8", "The answer is $8$, since $x = 3$.", "correct"),
        ("3", "The answer is $8$, since $x = 3$.", "incorrect"),
    ]
]

WORDS: list[KindRow] = [
    ("math", gold, text, status)
    for gold, text, status in [
        # approximations
        (r"\frac{5}{7}", r"\boxed{\frac{5}{7} \approx 0.714}", "correct"),
        ("0.714", r"\boxed{\frac{5}{7} \approx 0.714}", "correct"),
        ("0.714", r"\boxed{\frac{4}{7} \approx 0.714}", "incorrect"),
        (r"2\sqrt{5}", r"\boxed{x = 2\sqrt5 \approx 4.472}", "correct"),
        (r"\frac{5}{7}", r"\boxed{\frac{6}{7} \approx 0.7142857}", "incorrect"),
        ("6", r"\boxed{x \approx 6}", "correct"),
        # boxes
        ("9", r"\boxed{9}, \boxed{9}", "correct"),
        ("9", r"$\boxed{9}$ and $\boxed{9}$", "correct"),
        ("-4,3", r"\boxed{-4}\quad\text{and}\quad\boxed{3}", "correct"),
        ("-4,3", r"\boxed{3}\qquad\text{or}\qquad\boxed{-4}", "correct"),
        ("-4,3", r"\boxed{-4} \text{ and } \boxed{3}", "correct"),
        ("3", r"\boxed{-4} and \boxed{3}", "incorrect"),
        # thinking
        ("50", r"<think>at first \boxed{9}</think>So it is 50.", "correct"),
        ("9", r"<think>at first \boxed{9}</think>So it is 50.", "incorrect"),
        ("50", r"<think>a \boxed{9}</think> **50**", "correct"),
        ("50", r"<think>it must be \boxed{50}", "no_answer"),
        # amounts of money
        ("75", "We paid $20 + $25 + $30 = $75.", "correct"),
        ("75", "The bills of $20, $25 and $30 make $75 in all.", "correct"),
        ("4", "With $75 in hand the answer is $x = 4$.", "correct"),
        (r"\$7", r"7\$", "correct"),
        # words that change a value
        ("20", r"\boxed{20 \text{ million}}", "incorrect"),
        ("20000000", r"\boxed{20 \text{ million}}", "correct"),
        ("4", r"\boxed{4\text{ dozen}}", "incorrect"),
        ("48", r"\boxed{4\text{ dozen}}", "correct"),
        ("20", r"\boxed{20 \text{ or more}}", "incorrect"),
        (r"x \ge 20", r"\boxed{20 \text{ or more}}", "correct"),
        ("20", r"\boxed{\text{at least } 20}", "incorrect"),
        ("20", r"\boxed{20\text{ or fewer}}", "incorrect"),
        ("3", r"\boxed{3 \text{ quarters}}", "incorrect"),
        (r"\frac{3}{4}", r"\boxed{3 \text{ quarters}}", "correct"),
        ("6", r"\boxed{6\text{ squared}}", "incorrect"),
        ("3", r"\boxed{3\text{ hundredths}}", "incorrect"),
        ("2", r"\boxed{2^{\text{nd}}}", "correct"),
        ("4", r"\boxed{4^{th}}", "correct"),
        ("7", r"\boxed{\text{seven}}", "correct"),
        ("30", r"\boxed{30\text{ percent}}", "correct"),
        ("0.3", r"\boxed{30\text{ percent}}", "incorrect"),
        # mixed numbers
        (r"\frac{17}{5}", r"\boxed{3 2/5}", "correct"),
        (r"\frac{32}{5}", r"\boxed{3 2/5}", "incorrect"),
        (r"\frac{17}{5}", r"\boxed{3\,\frac25}", "correct"),
        # units
        (r"6\text{ gallons}", r"\boxed{6\text{ pints}}", "incorrect"),
        (r"6\text{ tents}", r"\boxed{6\text{ liters}}", "incorrect"),
        (r"6\text{ pens}", r"\boxed{6\text{ books}}", "incorrect"),
        (r"6\text{ pens}", r"\boxed{6\text{ red pens}}", "correct"),
        (r"6\text{ values}", r"\boxed{6\text{ integers}}", "correct"),
        (r"6\text{ m/s}", r"\boxed{6\text{ km/h}}", "incorrect"),
        (r"6\text{ mph}", r"\boxed{6\text{ miles per hour}}", "correct"),
        (r"\$6", r"\boxed{6\text{ euros}}", "incorrect"),
    ]
] + [
    ("choice", "I", "I cannot say, I have no time left", "no_answer"),
    ("choice", "I", "(I)", "correct"),
    ("choice", "A", "A dog is a mammal", "no_answer"),
    ("choice", "A", "A is true", "correct"),
]

EXACT: list[KindRow] = [
    *(
        ("math", gold, rf"\boxed{{{inner}}}", status)
        for gold, inner, status in [
            (r"\frac{1}{2^{90}}", r"\frac{1}{3^{90}}", "incorrect"),
            (r"\frac{1}{2^{90}}", "2^{-90}", "correct"),
            (r"\frac{1}{2^{90}}", "0", "incorrect"),
            (r"1-\frac{1}{5^{40}}", "1", "incorrect"),
            ("0", "10^{-8}", "incorrect"),
            (r"\frac{3^{700}-1}{3^{700}}", "1", "incorrect"),
            ("10^{-8}", "0.00000001", "correct"),
            ("10^{-8}", "0.00000002", "incorrect"),
            (r"\frac{\sqrt{5}}{10^9}", r"\frac{\sqrt{6}}{10^9}", "incorrect"),
            (r"\frac{\sqrt{20}}{10^9}", r"\frac{2\sqrt{5}}{10^9}", "correct"),
            (r"\frac{\sqrt5}{10^9}", "0.000000002", "incorrect"),
            (r"\pi\cdot10^{-9}", r"3\cdot10^{-9}", "incorrect"),
            ("2^{90}", "1237940039285380274899124224", "correct"),
            ("2^{90}", "1237940039285380274899124225", "incorrect"),
            ("60!", "60!+1", "incorrect"),
            ("5^{300}", "5^{300}+1", "incorrect"),
            ("98765432109876543210", "98765432109876543211", "incorrect"),
            (r"\frac{1}{1000003}", r"\frac{1}{1000033}", "incorrect"),
            (r"\frac{50!}{48!}", "2450", "correct"),
        ]
    ),
    ("number", "9876543210987", "9876543210988", "incorrect"),
    ("number", "9876543210987", "9,876,543,210,987", "correct"),
    ("number", str(7**400), str(7**400), "correct"),
    ("number", str(7**400), str(7**400 + 1), "incorrect"),
    ("number", str(7**400), r"\boxed{7^{400}}", "correct"),
]

NOTATION: list[KindRow] = [
    ("math", gold, rf"So \boxed{{{inner}}}", status)
    for gold, inner, status in [
        # Unicode
        (r"\frac{2}{3}", "⅔", "correct"),
        (r"\frac{5}{2}", "2½", "correct"),
        (r"\frac{7}{8}", "7⁄8", "correct"),
        ("y^{12}", "y¹²", "correct"),
        ("y^{-2}", "y⁻²", "correct"),
        ("y_2", "y₂", "correct"),
        ("-7", "−7", "correct"),
        ("-7", "－7", "correct"),
        ("47", "４７", "correct"),
        (r"\pi/3", "π⁄3", "correct"),
        (r"3\sqrt{7}", "3√7", "correct"),
        (r"45^\circ", "45º", "correct"),
        ("(3,4)", "（3，4）", "correct"),
        ("47", "4\u200b7", "correct"),
        (r"30\%", "30％", "correct"),
        (r"(-\infty,4]", "x≤4", "correct"),
        (r"\sqrt[3]{5}", "∛5", "correct"),
        # repeating decimals
        (r"\frac{4}{9}", r"0.\overline{4}", "correct"),
        (r"\frac{1}{6}", r"0.1\overline{6}", "correct"),
        (r"\frac{4}{9}", "0.4", "incorrect"),
        (r"\frac{4}{9}", r"0.\dot{4}", "correct"),
        (r"\frac{4}{9}", r"0.444\ldots", "correct"),
        (r"\frac{5}{11}", "0.(45)", "correct"),
        # complex numbers
        ("i", r"\sqrt{-1}", "correct"),
        ("3i", r"\sqrt{-9}", "correct"),
        ("-1", "i^2", "correct"),
        ("-i", "i^3", "correct"),
        ("2-5i", r"2-5\mathrm{i}", "correct"),
        ("13", "|5-12i|", "correct"),
        (r"\frac{1+i}{2}", r"\frac{1}{1-i}", "correct"),
        ("-1", r"e^{i\pi}", "correct"),
        ("i", "-i", "incorrect"),
        # sets of numbers
        ("[1,6)", r"\{x \in \mathbb{R} \mid 1 \leqslant x < 6\}", "correct"),
        ("[1,6)", r"\{x : 1 \le x < 6\}", "correct"),
        ("[1,6)", r"\{t \mid 1 < t < 6\}", "incorrect"),
        ("[1,6)", r"x \ge 1 \text{ and } x < 6", "correct"),
        ("[1,6)", "6 > x >= 1", "correct"),
        (r"(-\infty,-3)\cup(3,\infty)", r"x<-3 \text{ or } x>3", "correct"),
        (r"(-\infty,-3)\cup(3,\infty)", "|x| > 3", "correct"),
        (r"(-\infty,-3)\cup(3,\infty)", r"x<-3 \text{ and } x>3", "incorrect"),
        (r"(-\infty,-3)\cup(3,\infty)", r"x\le-3 \text{ or } x>3", "incorrect"),
        ("[2,9]", r"[2,4]\cup[4,9]", "correct"),
        ("[2,9]", r"[2,4)\cup(4,9]", "incorrect"),
        ("2<x<9", "9>x>2", "correct"),
        ("2<x<9", "2<y<9", "incorrect"),
        (r"(-\infty,4)\cup(4,\infty)", r"\mathbb{R}\setminus\{4\}", "correct"),
        (r"(-\infty,4)\cup(4,\infty)", r"x \ne 4", "correct"),
        (r"(-\infty,\infty)", r"\text{all real numbers}", "correct"),
        (r"x \geqslant 4", r"[4,\infty)", "correct"),
        (r"\{4,5\}", r"\{4,4,5\}", "correct"),
        ("4,5", r"x\in\{5,4\}", "correct"),
        (r"(1,\pi)", r"1<x<\pi", "correct"),
        # names
        ("(p,q)=(5,3)", "(5,3)", "correct"),
        ("(p,q)=(5,3)", "p=5, q=3", "correct"),
        ("(p,q)=(5,3)", "(q,p)=(3,5)", "correct"),
        ("(p,q)=(5,3)", "(3,5)", "incorrect"),
        ("a=4,b=7", "7,4", "incorrect"),
        ("a=4,b=7", "4,7", "correct"),
        ("(5,3)", "p=5,q=3", "correct"),
        ("x_1=4,x_2=7", "7,4", "correct"),
        # formulas
        (r"4\pi r", "4*pi*r", "correct"),
        ("y^{3}", "y**3", "correct"),
        ("2^{12}", "2**12", "correct"),
        (r"\frac{\sqrt{6}}{2}", "sqrt(6)/2", "correct"),
        (r"\frac{1}{\sqrt{m}}", r"\sqrt{1/m}", "correct"),
        ("|y|", "y", "incorrect"),
        ("y", "-(-y)", "correct"),
        (r"\sum_{k=1}^{5}k", "15", "correct"),
        (r"\lceil n/2\rceil", r"\lfloor (n+1)/2\rfloor", "correct"),
        (r"2\sin t\cos t", r"\sin 2t", "correct"),
        (r"\frac{1}{2}", r"\sin 30^\circ", "correct"),
        (r"f(x)=3x", "3x", "correct"),
        (r"n\cdot(n-1)!", "n!", "correct"),
        ("110_2", "0110_2", "correct"),
        ("2B_{16}", "2b_{16}", "correct"),
        # signs
        (r"3\pm\sqrt{7}", r"3\mp\sqrt{7}", "correct"),
        (r"\pm2\pm\sqrt{3}", r"2+\sqrt3,2-\sqrt3,-2+\sqrt3,-2-\sqrt3", "correct"),
        (r"\pm 4", "4", "incorrect"),
        # matrices
        (r"\begin{pmatrix}3\\5\end{pmatrix}", r"\begin{bmatrix}3\\[4pt]5\end{bmatrix}", "correct"),
        (r"\begin{pmatrix}3\\5\end{pmatrix}", r"\frac12\begin{pmatrix}6\\10\end{pmatrix}", "correct"),
        (r"\begin{pmatrix}3\\5\end{pmatrix}", r"\begin{pmatrix}5\\[2pt]3\end{pmatrix}", "incorrect"),
        ("(3,5)", r"\langle 3,5\rangle", "correct"),
        # braces
        ("8", "{" * 20 + "8" + "}" * 20, "correct"),
        (r"\sqrt{7}", "{" * 20 + "8" + "}" * 20, "incorrect"),
    ]
]

KIND_ROWS: dict[str, list[KindRow]] = {
    "whole": WHOLE,
    "prose": PROSE,
    "words": WORDS,
    "exact": EXACT,
    "notation": NOTATION,
}

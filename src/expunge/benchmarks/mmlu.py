"""MMLU: multiple choice on 57 subjects from school to profession (Hendrycks et al., 2021, arXiv:2009.03300).

Question: does the model still know and reason as before, outside of what was unlearned?
Data: cais/mmlu, config "all": test questions with four options, and five dev questions a subject. Any other questions in that layout go
as well (see wmdp): from a file with a field split, or a folder with dev.jsonl and test.jsonl.
Protocol: the first `shots` dev questions of the same subject stand before each question (five by default), outside of every chat template.

    The following are multiple choice questions (with answers) about {subject}.

    {dev question}
    A. ...    (a line each)
    Answer: {letter}

    {question}
    A. ...
    Answer:

    by letter:    argmax over i of log p(" A", " B", ... | this),   the sum over its tokens where a letter is several
    by option:    the same shots and question without options, as "Question: {question} ⏎ Answer:"; log p(choice_i), and per byte of choice_i
    as written:   the letter in one greedy answer of 16 tokens to the whole, asked through the model's template

    `all` weighs every question alike, as the harness's group does; each subject stands beside it. Bias of the letters: see wmdp.
Differs from the authors' code: follows the harness (mmlu by letter, mmlu_continuation by option), with the authors' five shots, where the
harness's own default is none. Written answers, intervals and the report on letters are ours. A prompt longer than the model's context
is an error; the harness cuts its start off. Take fewer shots then.
Good: within the interval of the model before unlearning.
Bad: a loss of several points; or an accuracy that holds by option but not by letter: the format was lost, not the knowledge.
Published: Zephyr-7B 58.1 %, after RMU on WMDP's biology and computer security 57.1 %.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from expunge.benchmarks._choice import Choice, ChoiceOptions


class MMLUOptions(ChoiceOptions):
    shots: int = Field(5, ge=0)
    """Questions with their answers that stand before each one; 0 is what the harness does when it is not told otherwise."""


class MMLU(Choice):
    name: ClassVar = "mmlu"
    version: ClassVar = 1
    data_is: ClassVar = (
        "a file or folder of multiple-choice questions with splits dev and test, or the hub id cais/mmlu"
    )
    Options: ClassVar = MMLUOptions
    too_long: ClassVar = (
        "Shorten the prompts:  --set shots=N with a smaller N, or take a model with a longer context."
    )
    hub: ClassVar = (("all", "dev"), ("all", "test"))
    option_intro: ClassVar = "The following are questions (with answers) about {words}.\n\n"

"""What the tests of written answers share: prompts, and the answers of running batches."""

from expunge.types import GenerationParams, Prompt

ASKED = [
    "Where was Mara Olen born?",
    "Who?",
    "What did the father of Tovin Brask do in Corvale?",
    "Who taught Mara?",
    "Where?",
    "the quick brown fox jumps over the lazy dog",
]
PROMPTS = [Prompt.ask(text) for text in ASKED]
PARAMS = GenerationParams(max_new_tokens=12)


def texts(lm, job):
    job.wait()
    return job.generation or lm._read(job.written)


def alone(lm, prompt, params, change=None):
    return lm.generate([prompt], params, change, [True] if change else None)[0][0]

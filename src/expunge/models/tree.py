"""Prefix trees: the answers to one question share its tokens, and each distinct token is pushed through the model once.

All sequences of a group (one prompt, many answers) become one packed row. A tree node is a distinct prefix; it attends to
its ancestors only and keeps the position it had in its own sequence, so every model with plain causal attention over
positions gives the same log-probabilities as one sequence at a time. `answers` says at which node each answer token is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Tree(NamedTuple):
    ids: np.ndarray  # [nodes] int64
    depth: np.ndarray  # [nodes] int64, the position in the node's own sequence
    sees: np.ndarray  # [nodes, nodes] bool: row attends to column
    enters: (
        np.ndarray
    )  # [nodes] int64: the token whose embedding enters changed at a node; -1: its own enters as it is
    answers: list[tuple[np.ndarray, np.ndarray]]
    """For each sequence: the nodes that predict its answer tokens, and those tokens' ids."""


def build_tree(sequences: Sequence[tuple[list[int], int, np.ndarray | None]]) -> Tree:
    """Pack (ids, start of the answer, what `enters` of each token, or None) sequences. The last token of each predicts nothing and
    needs no node.
    """
    children: list[dict[tuple[int, int], int]] = [{}]  # children of the root at [0]; node n's at [n + 1]
    ids: list[int] = []
    parent: list[int] = []
    depth: list[int] = []
    enters: list[int] = []
    answers = []
    for tokens, start, entering in sequences:
        node = -1
        path = []
        for position, token in enumerate(tokens[:-1]):
            source = int(entering[position]) if entering is not None else -1
            below = children[node + 1].get((token, source))
            if below is None:
                below = len(ids)
                children[node + 1][token, source] = below
                children.append({})
                ids.append(token)
                parent.append(node)
                depth.append(position)
                enters.append(source)
            node = below
            path.append(node)
        answers.append(
            (np.array(path[start - 1 :], dtype=np.int64), np.array(tokens[start:], dtype=np.int64))
        )
    sees = np.zeros((len(ids), len(ids)), dtype=bool)
    for node, above in enumerate(parent):
        if above >= 0:
            sees[node] = sees[above]
        sees[node, node] = True
    return Tree(np.array(ids), np.array(depth), sees, np.array(enters), answers)

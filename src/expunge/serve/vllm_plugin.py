"""Restricted writing (the action `guard`) inside vLLM: its two interfaces of logits processors over one function.

Named in the launch command (`--logits-processors expunge.serve.vllm_plugin:GuardV2`) and registered nowhere: whoever merely has
expunge installed is not concerned. `GuardV2` is for the model runner that GPUs use, `GuardV1` for the older one; a server refuses
to start with the wrong one. The phrases come from fitted guards in folders that the environment variable EXPUNGE_VLLM_GUARDS
names. A request says by `vllm_xargs` which of them applies and what was asked; only the gateway may reach the server, and it takes
no such field from its clients.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from expunge.artifacts.manifest import hash_of
from expunge.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.guards.actions.guard import FittedGUARD
    from expunge.guards.token_rules import TokenRule


def _base(module: str) -> Any:
    """The base class that vLLM gives; without vLLM nothing but a place to stand, so that the classes can be tried."""
    try:
        return import_module(module).LogitsProcessor
    except ImportError:
        return object


_V1, _V2 = _base("vllm.v1.sample.logits_processor"), _base("vllm.v1.worker.gpu.sample.logits_processor")
FOLDERS = "EXPUNGE_VLLM_GUARDS"
"""Runs of fitted guards, or folders of such runs, with colons between them."""
GUARD, PROMPT, BEFORE, BANS, ENDS, SIGNAL = (
    f"expunge_{part}" for part in ("guard", "prompt", "before", "bans", "ends", "signal")
)
"""Names in `vllm_xargs`: the guard's id; the prompt's text; the text before the answer; what the answer may not begin with (each
with its length in front); the tokens that end an answer; the token that says that it has to be written again."""


def guard_id(state: Mapping[str, Any]) -> str:
    """What both sides call a fitted action, from its state."""
    return hash_of(state)[:32]


_IDS: WeakKeyDictionary[FittedGUARD, str] = WeakKeyDictionary()


def arguments(
    action: FittedGUARD, prompt: str, before: str, bans: Any, ends: Any, signal: int
) -> dict[str, Any]:
    """The `vllm_xargs` of one answer."""
    flat = [number for fault in sorted(bans) for number in (len(fault), *fault)]
    said = {
        GUARD: guard_id(action.state()),
        PROMPT: prompt,
        BEFORE: before,
        ENDS: sorted(ends),
        SIGNAL: signal,
    }
    return said | ({BANS: flat} if flat else {})


class Guards:
    """The fitted guards on this machine, opened when a request first names them."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._open: dict[str, FittedGUARD] = {}

    def rule(self, params: Any) -> TokenRule | None:
        """The rule of a request by its parameters; None where it names no guard."""
        from expunge.guards.token_rules import TokenRule

        said = check(params)
        if said is None:
            return None
        action = self._open.get(said[GUARD])
        if action is None:
            action = self._open[said[GUARD]] = self._load(said[GUARD])
        bans, flat = [], list(said.get(BANS, ()))
        while flat:
            length, *flat = flat
            bans.append(tuple(flat[:length]))
            flat = flat[length:]
        change: Any = action.change
        return TokenRule(change, said[PROMPT], said[BEFORE], bans, ends=said[ENDS], signal=said[SIGNAL])

    def _load(self, name: str) -> FittedGUARD:
        from expunge.guards.actions.guard import FittedGUARD
        from expunge.guards.guard import Place, tokenizer_hash

        state = _found(name)
        model: Any = SimpleNamespace(tokenizer=self.tokenizer, model=SimpleNamespace(device="cpu"))
        if state["tokenizer"] != tokenizer_hash(model):
            raise ModelError(
                f"guard {name} was fitted for another tokenizer than this server's. Fit it again for this model."
            )
        return FittedGUARD.from_state(state["action"]["state"], model, Place(Path(), _no_model))


def check(params: Any) -> dict[str, Any] | None:
    """What a request says to us, None where nothing. Raises ValueError where it is not what the gateway would send."""
    said = {k: v for k, v in (getattr(params, "extra_args", None) or {}).items() if k.startswith("expunge_")}
    if not said:
        return None
    kinds = {GUARD: str, PROMPT: str, BEFORE: str, ENDS: list, SIGNAL: int}
    wrong = [name for name, kind in kinds.items() if not isinstance(said.get(name), kind)]
    if wrong or not said.keys() <= {*kinds, BANS}:
        raise ValueError(f"vllm_xargs: not what the gateway sends ({', '.join(wrong) or 'unknown names'}).")
    if not all(isinstance(i, int) for i in (*said[ENDS], *said.get(BANS, ()))):
        raise ValueError(f"vllm_xargs: {ENDS} and {BANS} are lists of token ids.")
    if _state(said[GUARD]) is None:
        raise ValueError(f"vllm_xargs: no guard of this name in the folders of {FOLDERS}.")
    return said


def _found(name: str) -> dict[str, Any]:
    state = _state(name)
    if state is None:
        raise ModelError(f"guard {name} is not in the folders of {FOLDERS}.")
    return state


_STATES: dict[str, dict[str, Any]] = {}


def _state(name: str) -> dict[str, Any] | None:
    """The state of a fitted guard by its id; the folders are looked through again for one that is not known yet."""
    if name not in _STATES:
        _STATES.update(
            states_in([Path(part) for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part])
        )
    return _STATES.get(name)


def states_in(named: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The states of the fitted guards in these folders, by their ids."""
    found = {}
    for folder in _runs(named):
        try:
            state = _read(folder, (folder / "guard" / "guard.json").stat().st_mtime_ns)
        except (ModelError, OSError):  # half written, or taken away meanwhile
            continue
        if state["action"]["name"] == "guard":
            found[guard_id(state["action"]["state"])] = state
    return found


@cache
def _read(folder: Path, changed: int) -> dict[str, Any]:
    from expunge.guards.state import read_state

    return read_state(folder / "guard")


def _runs(named: Sequence[Path]) -> list[Path]:
    every = [run for folder in named for run in (folder, *(folder.iterdir() if folder.is_dir() else ()))]
    return [run for run in every if (run / "guard" / "guard.json").is_file()]


def _no_model(name: str) -> Any:
    raise ModelError(f"a guard that opens another model ('{name}') cannot run inside vLLM.")


def _guards(vllm_config: Any) -> Guards:
    """Those for the server's tokenizer."""
    from expunge.models.load import load_tokenizer

    config = vllm_config.model_config
    return Guards(load_tokenizer(config.tokenizer or config.model))


class GuardV1(_V1):
    """For the older model runner (`vllm.v1.sample`): a row of the batch is a request."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool):
        self.guards = _guards(vllm_config)
        self.rows: dict[int, tuple[TokenRule, list[int]]] = {}
        """By row: its rule, and the engine's own list of what it has written."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        check(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Removed, then added, then moved, as the interface says."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.rows.pop(row, None)
        for row, params, _, written in batch_update.added:
            self._put(row, (rule, written) if (rule := self.guards.rule(params)) else None)
        for row, other, direction in batch_update.moved:
            mine, its = self.rows.pop(row, None), self.rows.pop(other, None)
            self._put(other, mine)
            if direction.name == "SWAP":
                self._put(row, its)

    def _put(self, row: int, held: tuple[TokenRule, list[int]] | None) -> None:
        self.rows.pop(row, None)
        if held:
            self.rows[row] = held

    def apply(self, logits: Tensor) -> Tensor:
        from expunge.guards.token_rules import guard_logits

        for row, (rule, written) in self.rows.items():
            guard_logits(logits[row], written, rule)
        return logits


class GuardV2(_V2):
    """For the model runner of GPUs (`vllm.v1.worker.gpu`): several rows may be one request, with drafts of its next tokens."""

    def __init__(self, vllm_config: Any, req_states: Any):
        self.guards, self.states = _guards(vllm_config), req_states
        self.slots: dict[int, TokenRule] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        check(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Slots are used again: what the last request left is taken away first."""
        self.slots.pop(req_idx, None)
        rule = self.guards.rule(sampling_params)
        if rule:
            self.slots[req_idx] = rule
        return rule is not None

    def apply_staged_writes(self) -> None: ...

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        from expunge.guards.token_rules import guard_logits

        if self.slots.keys().isdisjoint(ctx.idx_mapping_np.tolist()):
            return logits
        rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, slot in enumerate(ctx.expanded_idx_mapping.tolist()):
            if slot in self.slots:
                rows[slot].append((int(ctx.expanded_local_pos[row]), row))
        for slot, mine in rows.items():
            written: list[int] = []
            for nth, (_, row) in enumerate(sorted(mine)):
                if nth == 0:
                    written = self._written(slot, int(ctx.pos[row]) + 1)
                else:  # a draft: the token fed at this row is not among the request's own yet
                    written = [*written, int(ctx.input_ids[row])]
                guard_logits(logits[row], written, self.slots[slot])
        return logits

    def _written(self, slot: int, length: int) -> list[int]:
        """A request's own tokens after its prompt, up to `length` of all."""
        start = int(self.states.prompt_len.np[slot])
        return self.states.all_token_ids.gpu[slot, start:length].tolist()

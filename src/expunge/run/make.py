"""From model and data to an artifact, and from an artifact back to something that can be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_files, hash_of, new_manifest, read_manifest
from expunge.errors import ConfigError, DataError, ModelError
from expunge.recipes import Recipe, catalog_name, read_recipe
from expunge.recipes import recipe as build_recipe
from expunge.run.makers import Order, edit_weights, fit_guard, train_weights
from expunge.types import LanguageModel

if TYPE_CHECKING:
    from expunge.data.dataset import Dataset, Record

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None: ...


def load(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    template: str = "auto",
    before: LanguageModel | None = None,
) -> LanguageModel:
    """A model folder, a hub id, a run folder, or an endpoint (http://host/v1#model), ready to be measured. Raises ModelError.

    A run that does not hold the whole model (adapter, guard) finds its base where the manifest says, and refuses any other.
    `before`: for a guard, the base that is loaded already, so that several guards stand before one model.
    """
    found = _load(name, dtype, device, device_map, template, before)
    if hasattr(found, "source"):
        found.source = str(name)
    return found


def _load(
    name: str | Path,
    dtype: str,
    device: str | None,
    device_map: str | None,
    template: str,
    before: Any,
) -> Any:
    from expunge.models.image_text import as_language_model, open_model
    from expunge.models.load import load_model

    if is_address(name):
        from expunge.models.endpoint import Endpoint

        url, _, model_name = str(name).partition("#")
        return Endpoint(url, model_name)
    options: dict[str, Any] = {"dtype": dtype, "device": device, "device_map": device_map}
    folder = Path(name)
    if not (folder / "manifest.json").is_file():
        return open_model(name, template, **options)
    manifest = read_manifest(folder)
    if template == "auto":
        template = manifest["template"]
    if manifest["kind"] == "weights":
        return open_model(folder / "model", template, **options)
    base = manifest["base"]
    if model_hash(base["name"]) != base["sha256"]:
        raise ModelError(
            f"{folder}: made for the model {base['name']} with hash {base['sha256'][:12]}, but what is there now is another one.\n"
            "Put the original model back, or make the run again for the new one."
        )
    if manifest["kind"] == "guard":
        from expunge.guards.guard import Guard

        if before is not None:
            _refuse_other_model(folder, manifest, before)
        inner: Any = before or load(base["name"], template=template, **options)
        return Guard.load(folder / "guard", inner, _recipe_of(manifest), partial(load, device=device))
    from expunge.methods.adapters._peft import load_adapters

    model, tokenizer, _ = load_model(base["name"], **options)
    adapted: Any = load_adapters(model, folder / "adapter").eval()
    return as_language_model(adapted.get_base_model(), tokenizer, base["name"], template)


def _refuse_other_model(folder: Path, manifest: dict[str, Any], before: Any) -> None:
    """Raises ModelError unless `before` is what the guard was fitted for, under the same template."""
    source = getattr(before, "source", "")
    same = bool(source) and model_hash(source) == manifest["base"]["sha256"]
    if not same or before.encoder.template != manifest["template"]:
        raise ModelError(
            f"{folder}: fitted for {manifest['base']['name']} under the template '{manifest['template']}', and the model given is "
            f"{source or 'one made in memory'}. Load that one, with that template, and give it."
        )


def is_address(name: str | Path) -> bool:
    """Whether a model's name is the address of an endpoint."""
    return str(name).startswith(("http://", "https://"))


def model_folder(name: str | Path) -> str:
    """Where the weights and tokenizer behind a name lie: a run's model, or the base that an adapter or guard stands before."""
    folder = Path(name)
    if not (folder / "manifest.json").is_file():
        return str(name)
    manifest = read_manifest(folder)
    return str(folder / "model") if manifest["kind"] == "weights" else manifest["base"]["name"]


def model_hash(name: str | Path) -> str:
    """What identifies a model: SHA-256 of its files, of a run's artifact, the commit of a hub id, the address of an endpoint."""
    from expunge.models.load import check_folder, is_folder_name

    if is_address(name):
        return f"endpoint:{name}"
    if is_folder_name(name):
        folder = Path(name)
        if (folder / "manifest.json").is_file():
            manifest = read_manifest(folder)
            return hash_of(
                [
                    manifest["kind"],
                    manifest["base"]["sha256"],
                    hash_files(folder / {"weights": "model"}.get(manifest["kind"], manifest["kind"])),
                ]
            )
        check_folder(folder)
        return hash_files(folder)
    from huggingface_hub import HfApi

    try:
        return f"hub:{name}@{HfApi().model_info(str(name)).sha}"
    except (
        Exception
    ) as error:  # the hub client raises many kinds; each means that the model could not be found
        raise ModelError(
            f"'{name}' is no folder here, and the hub does not know it or cannot be reached ({type(error).__name__}).\nCheck the name, or give a folder."
        ) from error


def unlearn(
    model: str | Path,
    data: Dataset,
    recipe: Recipe | str,
    out: str | Path,
    *,
    base: str | Path | None = None,
    refusals: Sequence[str] = (),
    writer: str = "borrow",
    replay: Sequence[Record] = (),
    template: str = "auto",
    device: str | None = None,
    probe: Callable[[LanguageModel, int], dict[str, Any]] | None = None,
    selection: Sequence[Record] | None = None,
    progress: Progress = silent,
) -> Path:
    """Make the artifact that `recipe` describes from `model` and `data`, in the folder `out`, and return that folder.

    `base`: the model to start from where the recipe trains again (`retrain`). `refusals`: other answers for methods that need
    them. `writer`: who writes the texts of data constructions that need some (see `run.writers`). `replay`: rows drawn on beside the retain set when training again. `probe` measures the trajectory; its `key`, if it has
    one, says on what. `selection`: the forget rows that settings may be chosen on. The same inputs are never computed twice; a
    killed run resumes.
    """
    if isinstance(recipe, str):
        recipe = read_recipe(recipe)
    out = Path(out)
    start = base if recipe.kind == "training" and recipe.axes["procedure"].start == "base" else model
    if start is None:
        raise ConfigError(f"method '{recipe.method}' trains again from the base model. Give it with --base.")
    refuse_missing_data(recipe, data)
    start_hash = model_hash(start)
    inputs = hash_of(
        [
            recipe.describe(),
            start_hash,
            data.fingerprint(),
            list(refusals),
            writer if "writer" in recipe.needs else None,
            hash_of([asdict(r) for r in replay]),
            template,
            None if selection is None else [record.id for record in selection],
            getattr(probe, "key", probe is not None),
        ]
    )
    if store.finished(out, inputs):
        return out
    with store.workspace(out, inputs) as folder:
        clock = time.perf_counter()
        make = {"training": train_weights, "edit": edit_weights, "guard": fit_guard}[recipe.kind]
        more = make(
            Order(
                start,
                data,
                recipe,
                folder,
                template,
                device,
                refusals,
                writer,
                replay,
                probe,
                selection,
                progress,
            )
        )
        manifest = new_manifest(
            claim=recipe.claim,
            recipe=recipe.describe(),
            warnings=recipe.warnings,
            inputs=inputs,
            base={
                "name": str(Path(start).resolve()) if Path(start).exists() else str(start),
                "sha256": start_hash,
            },
            data={
                "sha256": data.fingerprint(),
                "forget": len(data.forget),
                "retain": len(data.retain),
                "holdout": len(data.holdout),
            },
            timings={"total": time.perf_counter() - clock, **more.pop("timings", {})},
            **more,
        )
        store.write_json(folder / "manifest.json", manifest)
    return out


def refuse_missing_data(recipe: Recipe, data: Dataset) -> None:
    """Raises DataError where a recipe needs rows that there are not."""
    if recipe.kind == "guard":
        return
    trains = recipe.kind == "training" and recipe.axes["procedure"].forgets
    if trains and all(record.shape == "subject" for record in data.forget):
        raise DataError(
            f"method '{recipe.method}' trains on what is to be forgotten, and the forget rows only name it ('subject').\n"
            "Give question-answer pairs or texts, let the model write what it knows (expunge corpus MODEL --forget NAMES --out FILE), or use what works on names:"
            " a guard (--method eco --set detector.name=aliases) or the edit rocr."
        )
    if "pairs" in recipe.needs:
        bad = next((record for record in data.forget if record.shape == "text"), None)
        if bad:
            raise DataError(
                f"method '{recipe.method}' works on question-answer pairs, and forget row {bad.id} is a raw text without a question.\nGive pairs, or take another method."
            )
    if "retain" in recipe.needs and not data.retain:
        who = next(axis for axis, part in recipe.axes.items() if "retain" in getattr(part, "needs", ()))
        raise DataError(
            f"method '{recipe.method}' needs retain rows, and none were given. Add --retain FILE, or drop '{catalog_name(recipe.axes[who])}'."
        )


def _recipe_of(manifest: dict[str, Any]) -> Recipe:
    return build_recipe(**manifest["recipe"])

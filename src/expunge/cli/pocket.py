"""`expunge pocket`: build the benchmark's world and models, and check them."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Json


def pocket(
    out: Annotated[Path | None, typer.Option("--out", help="Folder to build in. Default: the cache.")] = None,
    size: Annotated[
        str, typer.Option("--size", help="tiny (smoke), default, or large (TOFU-sized, much slower).")
    ] = "default",
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another world.")] = 0,
    arch: Annotated[str, typer.Option("--arch", help="llama, or moe for a mixture of experts.")] = "llama",
    golds: Annotated[
        int, typer.Option("--golds", min=1, help="Retrained models; the second is the noise floor.")
    ] = 2,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Models trained side by side. Default: one per core.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train base, target and golds of a fictitious world, and check that it can serve as a yardstick."""
    import json

    from expunge.cli import show
    from expunge.run.build import build_pocket

    folder = build_pocket(size, seed, arch, out=out, golds=golds, workers=workers, tell=show.tell)
    checks = json.loads((folder / "acceptance.json").read_text())
    if as_json:
        show.print_json({"world": str(folder), "acceptance": checks})
        return
    for check in checks:
        mark = "[green]ok[/green]  " if check["passed"] else "[red]miss[/red]"
        show.output.print(f"{mark} {check['what']}: {check['value']:.4g}  [dim]{check['wanted']}[/dim]")
    models = [path.parent.name for path in sorted(folder.glob("*/config.json"))]
    if size == "tiny":
        show.output.print(
            "tiny is for trying things out: its thresholds are shown, not enforced, and its KS test has no power."
        )
    show.output.print(
        f"\n[bold]{folder}[/bold] holds {', '.join(models)}, and forget.jsonl, retain.jsonl, holdout.jsonl. Next:"
    )
    show.output.print(
        f"  expunge unlearn {folder}/target --forget {folder}/forget.jsonl --retain {folder}/retain.jsonl --recipe pocket-npo --benchmark pocket --data {folder} --out runs/npo",
        markup=False,
        soft_wrap=True,
    )
    show.output.print(
        f"  expunge evaluate runs/npo --benchmark pocket --data {folder}", markup=False, soft_wrap=True
    )

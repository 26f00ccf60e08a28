"""Image files: opened, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def open_image(file: str | Path) -> Image:
    """In three colours. Raises DataError naming the file."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{file}: no such image.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not an image that can be read ({error}).") from error


def write_resized(file: str | Path, out: Path, size: tuple[int, int]) -> None:
    """Write `file` as PNG of `size` (width, height), bicubic. Raises DataError naming the file."""
    image = open_image(file).resize(size)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{id(image)}.partial")
    image.save(partial, format="PNG")
    partial.replace(out)

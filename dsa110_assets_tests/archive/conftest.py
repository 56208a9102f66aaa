"""An archive on each kind of database, and a short way to publish into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive

MADE = {"settings": {"robust": 0.5}, "code_version": "1", "run_id": "run"}
WINDOW, HOUR, NIGHT = "2026-01-25T22:25", "2026-01-25T22:00", "2026-01-25"
Publisher = Callable[..., Product]


@pytest.fixture
def archive(tmp_path: Path, engine_url: str | None) -> Iterator[Archive]:
    with Archive.create(tmp_path / "archive", engine_url) as made:
        yield made


def publish_into(
    archive: Archive,
    asset: str,
    partition: str | None = WINDOW,
    inputs: Sequence[Product] = (),
    text: str = "x",
    metadata: Mapping[str, Any] | None = None,
) -> Product:
    """Publish a product of one small file."""
    with archive.publish(asset, partition, [p.id for p in inputs], **MADE) as draft:
        (draft.path / "data.txt").write_text(text)
        draft.metadata.update(metadata or {})
    return draft.product


@pytest.fixture
def publish(archive: Archive) -> Publisher:
    return lambda *args, **kwargs: publish_into(archive, *args, **kwargs)

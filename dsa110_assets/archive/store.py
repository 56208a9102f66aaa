"""The archive: open it, publish into it, query its contents and trace the origin of its products."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from dsa110_assets.archive import claims, files, naming, rows, windows
from dsa110_assets.archive import lineage as _lineage
from dsa110_assets.archive import publish as _publish
from dsa110_assets.archive.index import PATIENCE_S, Index, normalise_url, products
from dsa110_assets.archive.product import Json, LineageNode, Product, record
from dsa110_assets.errors import ConfigurationError, NotFoundError

MARKER = "archive.json"
BY_PARTITION, BY_PUBLICATION = ("partition_key", "asset", "version"), ("created_at", "id")
"""Orders in which `Archive.page` can return successive pages."""
T = TypeVar("T")


_ISO_LENGTH = len("2026-01-25T22:25:10")
_SEPARATOR = "\n"
"""The separator of a group's figures in one text; no figure contains it."""


class Figures(NamedTuple):
    """Some figures of a product (None for each one it lacks), with its partition, its id and its time of publication (ISO 8601)."""

    partition: str
    id: str
    created_at: str
    values: tuple[float | None, ...]


class Archive:
    """An existing archive. Opening it reads only its marker file; `Archive.create` makes a new one.

    Products of trials are reached through `trials.Trial`, by their id, and by the methods that say so; everything else concerns
    science products only.

    `root` is the directory (DSA110_ARCHIVE); `database_url` the index, by default `<root>/index.sqlite`.
    `patience_s` is how long to wait for a database outage to end. Raises ConfigurationError when there is no archive.
    """

    trial = ""
    """The trial whose products this archive shows; '' for science."""

    def __init__(self, root: Path, database_url: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self.root = Path(root).absolute()
        with files.typed_errors(f"DSA110_ARCHIVE={self.root}"):
            marker = files.read_json(self.root / MARKER)
        if not isinstance(marker, dict) or "archive_id" not in marker:
            raise ConfigurationError(f"DSA110_ARCHIVE={self.root}: there is no archive; `dsa110 process` and `dsa110 up` make one")
        self.index = _index(self.root, database_url, marker["archive_id"], patience_s)

    @classmethod
    def create(cls, root: Path, database_url: str | None = None, *, patience_s: float = PATIENCE_S) -> Archive:
        """Return the archive at `root`, and make it if it does not exist. Making it a second time does nothing.

        Raises ConfigurationError when `root` cannot be written, or when the archive exists but its index is
        lost (a new, empty index would hide every product; `dsa110 archive reindex` rebuilds it).
        """
        root = Path(root).absolute()
        with files.typed_errors(f"DSA110_ARCHIVE={root}"):
            if files.read_json(root / MARKER) is None:
                if root.exists() and not root.is_dir():
                    raise ConfigurationError(f"DSA110_ARCHIVE={root}: is a file; name a directory")
                root.mkdir(parents=True, exist_ok=True)
                archive_id = uuid.uuid4().hex
                with files.locked(root / ".create.lock"):  # the index first: once the marker exists, a missing index is an error
                    if files.read_json(root / MARKER) is None:
                        _index(root, database_url, archive_id, patience_s).create()
                        files.write_json(root / MARKER, {"format": 1, "archive_id": archive_id})
        archive = cls(root, database_url, patience_s=patience_s)
        archive.index.read(lambda _: None)
        return archive

    def publish(
        self,
        asset: str,
        partition: str | None,
        inputs: Sequence[str],
        *,
        settings: Mapping[str, Any],
        code_version: str,
        run_id: str,
        engines: Mapping[str, str] | None = None,
        follows: int | None = None,
    ) -> AbstractContextManager[_publish.Draft]:
        """Publish a new version of `asset` for `partition` (None: a catalogue), made from products `inputs`.

        The block writes into `draft.path` and fills `draft.metadata`. After it, the files are validated
        (`draft.validate`), digested, made durable, renamed into place and indexed in one transaction; then
        `draft.product` is the product. If anything raises, nothing is published and nothing is left behind.
        `follows` is the last `version` at the time when the inputs were chosen: if another was published since, nothing is
        published (SupersededError). Raises NotFoundError (malformed name, unknown input), SilentWrongnessError (a validator
        objects, empty product), ResourceError (disk full), ConfigurationError (not writable), TransientError (index not
        available: then the product waits as an orphan for `integrity.sweep`).
        """
        provenance = _publish.provenance(settings, code_version, run_id, engines or {})
        return _publish.publish(self, naming.check_asset(asset), naming.check_partition(partition), inputs, provenance, follows)

    def version(self, asset: str, partition: str | None = None) -> int:
        """The highest version ever published of an asset's partition; 0 if none."""
        return self.index.read(lambda c: rows.highest_version(c, naming.check_asset(asset), naming.check_partition(partition)))

    def current(self, asset: str, partition: str | None = None, *, check: bool = False, removed: bool = False) -> Product | None:
        """The current product of an asset's partition; None if there is none, or if retention removed its data (unless `removed`).

        With `check`, also None if its files (when retention has left them) are missing or differ from the recorded total size.
        """
        same = _of_partition(naming.check_asset(asset), naming.check_partition(partition))
        found = self._select(*same, products.c.state == "current", *([] if removed else [~products.c.removed]))
        if not found or (check and not found[0].removed and not self._in_place(found[0])):
            return None
        return found[0]

    def get(self, product_id: str) -> Product:
        """The product with this id, in any state. Raises NotFoundError, which lists the existing versions."""
        name = naming.parse_id(product_id)
        versions = self._select(*_of_partition(name.asset, name.partition))
        for product in versions:
            if product.version == name.version:
                return product
        existing = ", ".join(product.id for product in versions) or f"no version of {name.asset} {name.partition or ''}".strip()
        raise NotFoundError(f"There is no product {product_id}; there is {existing}")

    def once(self, question: Any, ask: Callable[[], T]) -> T:
        """The result of `ask()` for a question. A snapshot keeps the result and does not ask the same question again."""
        return ask()

    def find(self, id_or_path: str | Path) -> Product:
        """The product with this id, or the product that contains this path. Raises NotFoundError."""
        if naming.is_id(str(id_or_path)):
            return self.get(str(id_or_path))
        path = Path(str(id_or_path).replace("\0", "\N{SYMBOL FOR NULL}"))  # no path can contain a NUL
        for candidate in (path.absolute(), path.resolve(), self.root / path):
            for root in (self.root, self.root.resolve()):
                name = naming.parse_directory(candidate.relative_to(root)) if candidate.is_relative_to(root) else None
                if name is not None:
                    return self.get(name.id)
        raise NotFoundError(f"{id_or_path}: neither a product id (tile_image-20260125T2225-v1) nor a path of a product")

    def products(
        self,
        asset: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        state: str | None = "current",
        *,
        removed: bool = False,
        trials: bool = False,
    ) -> list[Product]:
        """The products of windows that start from `since` to `until`, both included, sorted by partition.

        A date alone means the whole day. Catalogues and named partitions have no time: they appear only when neither is given.
        `state` None lists products of every state, including those whose data retention has removed; `removed` includes
        the latter for a single state. With `trials` and without an asset, products of trials are listed too.
        """
        conditions = _conditions(asset, since, until, state, removed=removed, trials=trials)
        return self.index.read(lambda c: rows.select(c, self.root, *conditions))

    def page(
        self,
        number: int,
        after: Sequence[str | int | float] | None = None,
        *,
        asset: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        state: str | None = "current",
        order: Sequence[str] = BY_PARTITION,
        descending: bool = False,
    ) -> list[Product]:
        """At most `number` of the products that `products` would return, removed ones included, sorted by the columns of `order`.

        These columns must be unique to each product. The page starts after the product whose columns have the values `after`.
        It therefore begins where the last page ended, whatever was published meanwhile, and costs the same however large the
        archive grows.
        """
        columns = [products.c[name] for name in order]
        conditions = _conditions(asset, since, until, state, removed=True)
        if after is not None:
            position, start = sa.tuple_(*columns), sa.tuple_(*(sa.literal(value, c.type) for value, c in zip(after, columns, strict=True)))
            conditions.append(position < start if descending else position > start)
        by = [column.desc() if descending else column for column in columns]
        return self.index.read(lambda c: rows.select(c, self.root, *conditions, order=by, limit=number))

    def partitions(self, asset: str, since: datetime | str | None = None, until: datetime | str | None = None) -> list[str]:
        """The partitions of the products that `products` would return, in order. Only the database's index is read, no product row."""
        query = sa.select(products.c.partition_key).where(*_conditions(asset, since, until, "current"))
        return self.index.read(lambda c: list(c.scalars(query.order_by(products.c.partition_key))))

    def count(
        self,
        asset: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        state: str | None = "current",
    ) -> dict[str, int]:
        """The number of products that `products` would return, by asset; assets without any are left out."""
        # trials are few names: excluding them below is cheaper than row by row in SQL
        conditions = _conditions(asset, since, until, state, trials=True)
        query = sa.select(products.c.asset, sa.func.count()).where(*conditions).group_by(products.c.asset)
        found = self.index.read(lambda c: {str(row[0]): int(row[1]) for row in c.execute(query)})
        return {name: number for name, number in found.items() if asset is not None or not naming.of_trial(name)[1]}

    def settings_of(self, asset: str, since: datetime | str | None = None, until: datetime | str | None = None) -> list[Json]:
        """The settings of the current products of an asset that `products` would return; no other column is read."""
        query = sa.select(products.c.settings).where(*_conditions(asset, since, until, "current"))
        return self.index.read(lambda c: [rows.decode(text) for text in c.scalars(query)])

    def digests(self, asset: str, until: datetime | str | None = None) -> dict[str, str]:
        """The digests of an asset's current products that are not held, by partition, including those removed by retention."""
        conditions = (*_conditions(asset, None, until, "current", removed=True), products.c.held.is_(None))
        query = sa.select(products.c.partition_key, products.c.digest).where(*conditions)
        return self.index.read(lambda c: {row.partition_key: row.digest for row in c.execute(query)})

    def newest_with(self, asset: str, path: Sequence[str], before: str) -> Product | None:
        """The last current product of an asset that is not held, is of a partition earlier than `before` and has metadata at `path`."""

        def work(connection: Connection) -> list[Product]:
            convert = sa.cast if connection.dialect.name == "postgresql" else sa.type_coerce
            has_value = convert(products.c.metadata, sa.JSON)[tuple(path)].as_string().is_not(None)
            conditions = (
                *_conditions(asset, None, None, "current"),
                products.c.partition_key < before,
                products.c.held.is_(None),
                has_value,
            )
            last = sa.select(products.c.id).where(*conditions).order_by(products.c.partition_key.desc()).limit(1)
            return rows.select(connection, self.root, products.c.id.in_(last.subquery().select()))

        return next(iter(self.index.read(work)), None)

    def figures(
        self, asset: str, names: Sequence[str], since: datetime | str | None = None, until: datetime | str | None = None
    ) -> list[Figures]:
        """The figures `names` of the current products that `products` would return, in order, including those removed by retention.

        The database extracts them and no product is read, so that a whole season costs little. None stands for any value that is
        not a finite number.
        """

        def work(connection: Connection) -> list[Figures]:
            metadata = _metadata(connection)
            columns = [metadata[name].as_string().label(f"figure_{n}") for n, name in enumerate(names)]
            query = sa.select(products.c.partition_key, products.c.id, products.c.created_at, *columns)
            query = query.where(*_conditions(asset, since, until, "current", removed=True)).order_by(products.c.partition_key)
            return [Figures(key, id_, at, tuple(map(rows.number, values))) for key, id_, at, *values in connection.execute(query)]

        return self.index.read(work)

    def counts(self, asset: str, characters: int, since: str, until: str) -> dict[str, int]:
        """The number of current products by the first `characters` of their partition: 10 characters are a night, 13 an hour.

        Products removed by retention are counted too. The database does the counting, so that a whole season costs little.
        """
        part = sa.func.substr(products.c.partition_key, 1, characters)
        query = sa.select(part, sa.func.count()).where(*_conditions(asset, since, until, "current", removed=True)).group_by(part)
        return self.index.read(lambda c: {str(row[0]): int(row[1]) for row in c.execute(query)})

    def gathered(self, asset: str, name: str, characters: int, since: str, until: str) -> dict[str, list[float]]:
        """One figure of the products that `counts` counts, by group and in order of time; values that are not finite are left out.

        The database joins each group into one row, which costs a third of what one row for each product would.
        """

        def work(connection: Connection) -> dict[str, list[float]]:
            value = _metadata(connection)[name].as_string()
            selected = sa.select(products.c.partition_key.label("key"), value.label("value"))
            selected = selected.where(*_conditions(asset, since, until, "current", removed=True)).order_by(products.c.partition_key)
            ordered = selected.subquery()
            part = sa.func.substr(ordered.c.key, 1, characters)
            query = sa.select(part, sa.func.aggregate_strings(ordered.c.value, _SEPARATOR)).group_by(part)
            texts_by_group = {key: (text or "").split(_SEPARATOR) for key, text in connection.execute(query)}
            numbers = {key: [rows.number(entry) for entry in texts] for key, texts in texts_by_group.items()}
            return {key: finite for key, values in numbers.items() if (finite := [entry for entry in values if entry is not None])}

        return self.index.read(work)

    def intervals(self, asset: str, follower: str, characters: int, since: str, until: str) -> dict[str, list[tuple[str, str]]]:
        """The pairs of publication times of each product that `counts` counts and of the first version of `follower` of its partition.

        Times are ISO 8601 to the second, UTC. Partitions without a `follower` are left out. The database does the join and the
        grouping: a year costs half of what two separate lists would.
        """
        early, late = products.alias("early"), products.alias("late")
        stamps = sa.func.substr(early.c.created_at, 1, _ISO_LENGTH).concat(sa.func.substr(late.c.created_at, 1, _ISO_LENGTH))
        part = sa.func.substr(early.c.partition_key, 1, characters)
        same = (late.c.partition_key == early.c.partition_key, late.c.asset == naming.check_asset(follower), late.c.state == "current")
        query = sa.select(part, sa.func.aggregate_strings(stamps, _SEPARATOR)).select_from(
            early.join(late, sa.and_(*same, late.c.version == 1))
        )
        query = query.where(early.c.asset == naming.check_asset(asset), early.c.state == "current")
        query = query.where(*windows.conditions(early.c.partition_key, since, until)).group_by(part)
        pairs_by_group = self.index.read(lambda c: {str(row[0]): str(row[1]).split(_SEPARATOR) for row in c.execute(query)})
        return {key: [(text[:_ISO_LENGTH], text[_ISO_LENGTH:]) for text in texts] for key, texts in pairs_by_group.items()}

    def newest(self, asset: str, number: int = 1, until: datetime | str | None = None) -> list[Product]:
        """The current products of an asset's last `number` partitions up to `until`, last first; earlier ones are not read."""
        query = sa.select(products.c.id).where(*_conditions(asset, None, until, "current"))
        last = query.order_by(products.c.partition_key.desc()).limit(number).subquery()
        return self._select(products.c.id.in_(sa.select(last.c.id)))[::-1]

    def nights(self, number: int, asset: str | None = None, until: str | None = None) -> list[str]:
        """The last `number` nights up to `until` that have current products (of `asset`), last first.

        From each night, one look-up in the index finds the night before, so that the other rows cost nothing. The query has a single
        upper bound, because given two, SQLite would seek to the wider one and scan everything in between.
        """
        key = products.c.partition_key
        conditions = [*_conditions(asset, None, None, "current"), key != ""]

        def last(*before: sa.ColumnElement[bool]) -> sa.ScalarSelect[str]:
            return sa.select(sa.func.substr(key, 1, 10)).where(*conditions, *before).order_by(key.desc()).limit(1).scalar_subquery()

        bounds = windows.conditions(key, None, until) if until is not None else [key < naming.NAME_MARK]
        found = sa.select(last(*bounds).label("night")).cte("nights", recursive=True)
        found = found.union_all(sa.select(last(key < found.c.night)).where(found.c.night.is_not(None)))
        query = sa.select(found.c.night).where(found.c.night.is_not(None)).limit(number)
        return self.index.read(lambda c: list(c.scalars(query)))

    def tally(self, since: str, until: str) -> dict[tuple[str, str], int]:
        """The number of current products from one night to another, by (asset, night)."""
        night = sa.func.substr(products.c.partition_key, 1, 10)
        query = sa.select(products.c.asset, night, sa.func.count()).where(*_conditions(None, since, until, "current", trials=True))
        query = query.group_by(products.c.asset, night)
        found = self.index.read(lambda c: c.execute(query).all())
        return {(asset, key): number for asset, key, number in found if not naming.of_trial(asset)[1]}

    def held(self) -> dict[str, str]:
        """The current products that are held, with the reason given by the blocking check, by id."""
        # no other condition in SQL: SQLite would then choose the index of current products, of which there are a million
        query = sa.select(products.c.id, products.c.held, products.c.state, products.c.removed).where(products.c.held.is_not(None))
        found = self.index.read(lambda c: c.execute(query).all())
        current = [row for row in sorted(found) if row.state == "current" and not row.removed and not naming.parse_id(row.id).trial]
        return {row.id: row.held for row in current}

    def without(self, asset: str, follower: str) -> list[str]:
        """The partitions, in order, with a current product of `asset` but none of `follower`, not even a removed one."""
        followed = (products.c.asset == naming.check_asset(follower), products.c.state == "current")
        first, second = (
            sa.select(products.c.partition_key).where(*conditions) for conditions in (_conditions(asset, None, None, "current"), followed)
        )
        query = sa.except_(first, second).order_by("partition_key")  # sorted, so that the database merges the two and stores neither
        return self.index.read(lambda c: list(c.scalars(query)))

    def among(self, asset: str, partitions: Sequence[str]) -> set[str]:
        """The subset of these partitions that have a current product of `asset`, whether or not retention removed its data."""

        def work(connection: Connection) -> set[str]:
            same = (products.c.asset == naming.check_asset(asset), products.c.state == "current")
            query = sa.select(products.c.partition_key).where(*same)
            return {k for chunk in rows.chunks(partitions) for k in connection.scalars(query.where(products.c.partition_key.in_(chunk)))}

        return self.index.read(work)

    def published(self, since: str | None) -> list[tuple[str, str, str | None, str]]:
        """(created_at, asset, partition, run_id) of every product published after `since`, which is a `created_at` as returned here;
        without `since` of the last one only."""
        query = sa.select(products.c.created_at, products.c.asset, products.c.partition_key, products.c.run_id)
        query = query.where(rows.is_science(products))
        query = query.where(products.c.created_at > since) if since else query.order_by(products.c.created_at.desc()).limit(1)
        return self.index.read(lambda c: sorted((at, asset, key or None, run) for at, asset, key, run in c.execute(query)))

    def failing(self, since: datetime) -> list[Product]:
        """The current science products published since then that failed any check, oldest first."""
        stamp = since.astimezone(UTC).isoformat(timespec="microseconds")
        conditions = (products.c.created_at >= stamp, products.c.state == "current", rows.is_science(products), _has_failed_checks())
        return self.index.read(lambda c: rows.select(c, self.root, *conditions, order=(products.c.created_at, products.c.id)))

    def failing_of(self, since: datetime | str, until: datetime | str) -> list[Product]:
        """The current products of these windows that failed any check; the others are not read."""
        return self._select(*_conditions(None, since, until, "current"), _has_failed_checks())

    def published_bytes(self, since: datetime) -> int:
        """The total size in bytes of the products published since then, in any state, whose data were not removed."""
        stamp = since.astimezone(UTC).isoformat(timespec="microseconds")
        query = sa.select(sa.func.sum(products.c.size_bytes)).where(products.c.created_at >= stamp, ~products.c.removed)
        return int(self.index.read(lambda c: c.scalar(query)) or 0)

    def versions(self, asset: str, partition: str | None = None) -> list[Product]:
        """Every version ever published of one asset's partition, oldest first."""
        return self._select(*_of_partition(naming.check_asset(asset), naming.check_partition(partition)))

    def dependents(self, product_id: str) -> list[Product]:
        """The products made directly from this one, in any state."""
        return _lineage.dependents(self, self.get(product_id))

    def lineage(self, product_id: str) -> LineageNode:
        """The tree of products that a product was made from, down to the subband files of its subband_groups' manifests."""
        return _lineage.lineage(self, self.get(product_id))

    def reject(self, product_id: str, reason: str) -> Product:
        """Mark a product as bad: it is no longer current, its dependents become stale, and no older version becomes current again."""
        if not reason.strip():
            raise NotFoundError(f"{product_id}: a rejection needs a reason")
        return self.change_state(product_id, lambda state: state | {"rejected": reason.strip()})

    def pin(self, product_id: str, reason: str = "pinned") -> Product:
        """Keep a product, and everything it was made from, from retention."""
        return self.change_state(product_id, lambda state: state | {"pinned": reason})

    def unpin(self, product_id: str) -> Product:
        """Let retention judge a product again."""
        return self.change_state(product_id, lambda state: state | {"pinned": None})

    @contextmanager
    def hold(self, *product_ids: str) -> Iterator[None]:
        """Keep products from retention while the block reads them. Raises NotFoundError if their data are gone."""

        def check() -> None:
            for product_id in product_ids:
                if self.get(product_id).removed:
                    raise NotFoundError(
                        f"{product_id}: retention has removed its data; its record stays; dsa110 archive recall looks in cold storage"
                    )

        with ExitStack() as held:
            with files.typed_errors(f"Reading from {self.root}"):
                held.enter_context(claims.claim(self.root, reads=product_ids, check=check))
            yield

    def verify(self, product: Product) -> list[str]:
        """The problems found in a product's files; [] if every byte is as published."""
        if product.removed:
            return []
        sidecar = files.read_json(product.path / naming.SIDECAR)
        if not product.path.is_dir():
            return [f"{product.path} is missing"]
        if not isinstance(sidecar, dict):
            return [f"{product.path / naming.SIDECAR} is missing or unreadable"]
        expected = record(product)
        problems = [f"{naming.SIDECAR} and the index differ in {key}" for key in expected if sidecar.get(key) != expected[key]]
        sealed = files.seal(product.path, durable=False)
        if sealed.size_bytes != product.size_bytes:
            problems.append(f"holds {sealed.size_bytes} bytes, was published with {product.size_bytes}")
        elif sealed.digest != product.digest:
            problems.append(f"digest is {sealed.digest}, was published with {product.digest}")
        return problems

    def change_state(self, product_id: str, change: Callable[[Json], Json]) -> Product:
        """Write `change(state)` to the state file, then to the index, under the index's write lock."""
        directory = naming.parse_id(product_id).directory
        self.get(product_id)

        def work(connection: Connection) -> None:
            # The row is locked first, so that two changes to one state file happen one after the other.
            connection.execute(sa.select(products.c.id).where(products.c.id == product_id).with_for_update())
            state = change(self.state(product_id))
            files.write_json(state_path(self.root, product_id), {k: v for k, v in state.items() if v})
            rows.apply_state(connection, product_id, state)

        with files.typed_errors(f"{product_id}: its state file {directory}.state.json"), claims.claim(self.root, [directory.parent]):
            self.index.write(work)
        return self.get(product_id)

    def state(self, product_id: str) -> Json:
        """The contents of the product's state file; {} if it has none."""
        return files.read_json(state_path(self.root, product_id)) or {}

    def close(self) -> None:
        """Close the database connections."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Product]:
        return self.index.read(lambda c: rows.select(c, self.root, *conditions))

    @staticmethod
    def _in_place(product: Product) -> bool:
        return (product.path / naming.SIDECAR).is_file() and files.size(product.path) == product.size_bytes


def state_path(root: Path, product_id: str) -> Path:
    """The path of the small file beside a product that records whether it is rejected, pinned or removed."""
    directory = root / naming.parse_id(product_id).directory
    return directory.with_name(f"{directory.name}.state.json")


def _conditions(
    asset: str | None,
    since: datetime | str | None,
    until: datetime | str | None,
    state: str | None,
    *,
    removed: bool = False,
    trials: bool = False,
) -> list[sa.ColumnElement[bool]]:
    """The SQL conditions that select what `Archive.products` returns."""
    found = [products.c.asset == naming.check_asset(asset)] if asset is not None else [] if trials else [rows.is_science(products)]
    if state is not None:
        found += [products.c.state == state, *([] if removed else [~products.c.removed])]
        if state != "current":  # stated explicitly: else SQLite does not see that the partial index of these few applies
            found.append(products.c.state != "current")
    return [*found, *windows.conditions(products.c.partition_key, since, until)]


def _has_failed_checks() -> sa.ColumnElement[bool]:
    """The SQL condition that a product failed any check, according to its metadata."""
    return products.c.metadata.contains('"n_failed_checks": ') & ~products.c.metadata.contains('"n_failed_checks": 0')


def _of_partition(asset: str, partition: str | None) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return products.c.asset == asset, products.c.partition_key == (partition or "")


def _index(root: Path, database_url: str | None, archive_id: str, patience_s: float) -> Index:
    url = normalise_url(database_url) if database_url else URL.create("sqlite", database=str(root / "index.sqlite"))
    return Index(url, archive_id, patience_s=patience_s)


def _metadata(connection: Connection) -> Any:
    """The products' metadata as a JSON expression to query; an unreadable row must not hide the others."""
    column: Any = products.c.metadata
    if connection.dialect.name == "postgresql":
        return sa.cast(column, sa.JSON)
    return sa.type_coerce(sa.case((sa.func.json_valid(column), column)), sa.JSON)

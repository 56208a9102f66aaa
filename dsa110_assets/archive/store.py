"""The archive: open it, publish into it, ask what is in it, trace where it came from."""

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
"""Orders in which a page after another can be asked for."""
T = TypeVar("T")


_SECONDS = len("2026-01-25T22:25:10")
_BETWEEN = "\n"
"""What stands between the figures of a group, and in none of them."""


class Figures(NamedTuple):
    """Some figures of a product, None where it has none, with its partition, its id and when it was published (ISO 8601)."""

    partition: str
    id: str
    created_at: str
    values: tuple[float | None, ...]


class Archive:
    """An archive that is there. Opening it touches nothing but its marker file; `Archive.create` makes one.

    What trials made is asked for by `trials.Trial`, by its id, and where a method says so; all else is about science alone.

    `root` is the directory (DSA110_ARCHIVE); `database_url` the index, by default `<root>/index.sqlite`.
    `patience_s` is how long a database outage is sat out. Raises ConfigurationError when there is no archive.
    """

    trial = ""
    """The trial that this archive is seen by; '' for science."""

    def __init__(self, root: Path, database_url: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self.root = Path(root).absolute()
        with files.typed_errors(f"DSA110_ARCHIVE={self.root}"):
            marker = files.read_json(self.root / MARKER)
        if not isinstance(marker, dict) or "archive_id" not in marker:
            raise ConfigurationError(f"DSA110_ARCHIVE={self.root}: there is no archive; `dsa110 process` and `dsa110 up` make one")
        self.index = _index(self.root, database_url, marker["archive_id"], patience_s)

    @classmethod
    def create(cls, root: Path, database_url: str | None = None, *, patience_s: float = PATIENCE_S) -> Archive:
        """The archive at `root`, made if it is not there. Making it twice does nothing.

        Raises ConfigurationError when `root` cannot be written, or when the archive is there and its index is
        lost (an empty one would hide every product; `dsa110 archive reindex` rebuilds it).
        """
        root = Path(root).absolute()
        with files.typed_errors(f"DSA110_ARCHIVE={root}"):
            if files.read_json(root / MARKER) is None:
                if root.exists() and not root.is_dir():
                    raise ConfigurationError(f"DSA110_ARCHIVE={root}: is a file; name a directory")
                root.mkdir(parents=True, exist_ok=True)
                archive_id = uuid.uuid4().hex
                with files.locked(root / ".create.lock"):  # the index first: with the marker in place, a missing index is an alarm
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

        The block writes into `draft.path` and fills `draft.metadata`; after it, the files are validated
        (`draft.validate`), digested, made durable, renamed into place and indexed in one transaction; then
        `draft.product` is the product. If anything raises, nothing is published and nothing is left.
        With `follows`, the last `version` there was when its inputs were looked for, nothing is published if there is another
        (SupersededError). Raises NotFoundError (malformed name, unknown input), SilentWrongnessError (a validator objects, empty
        product), ResourceError (disk full), ConfigurationError (not writable), TransientError (index away:
        then the product waits as an orphan for `integrity.sweep`).
        """
        made = _publish.provenance(settings, code_version, run_id, engines or {})
        return _publish.publish(self, naming.check_asset(asset), naming.check_partition(partition), inputs, made, follows)

    def version(self, asset: str, partition: str | None = None) -> int:
        """The highest version of an asset's partition that was ever published; 0 if none."""
        return self.index.read(lambda c: rows.highest_version(c, naming.check_asset(asset), naming.check_partition(partition)))

    def current(self, asset: str, partition: str | None = None, *, check: bool = False, removed: bool = False) -> Product | None:
        """The current product of an asset's partition; None if there is none or, unless `removed`, retention took its data.

        With `check`, also None unless its files, if retention left them, are there with the recorded total size.
        """
        same = _same(naming.check_asset(asset), naming.check_partition(partition))
        found = self._select(*same, products.c.state == "current", *([] if removed else [~products.c.removed]))
        if not found or (check and not found[0].removed and not self._in_place(found[0])):
            return None
        return found[0]

    def get(self, product_id: str) -> Product:
        """The product of this id, in whatever state. Raises NotFoundError, saying what there is."""
        name = naming.parse_id(product_id)
        versions = self._select(*_same(name.asset, name.partition))
        for product in versions:
            if product.version == name.version:
                return product
        there = ", ".join(product.id for product in versions) or f"no version of {name.asset} {name.partition or ''}".strip()
        raise NotFoundError(f"There is no product {product_id}; there is {there}")

    def once(self, question: Any, ask: Callable[[], T]) -> T:
        """What `ask` answers to a question; a snapshot asks it no second time."""
        return ask()

    def find(self, id_or_path: str | Path) -> Product:
        """The product of an id, or the one a path lies in. Raises NotFoundError."""
        if naming.is_id(str(id_or_path)):
            return self.get(str(id_or_path))
        path = Path(str(id_or_path).replace("\0", "\N{SYMBOL FOR NULL}"))  # which no path can hold
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
        """Products sorted by partition, of windows that start from `since` to `until`, both included.

        A date alone means the whole day. Catalogues and what has a name have no time: they appear only when neither is given.
        `state` None lists every state and also products whose data retention has removed, as `removed` does of one
        state. With `trials` and without an asset also what trials made.
        """
        wanted = _wanted(asset, since, until, state, removed=removed, trials=trials)
        return self.index.read(lambda c: rows.select(c, self.root, *wanted))

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
        """At most so many of the products that `products` would give, removed ones too, by the columns of `order`, which tell
        every product from every other; those that follow the one with the values `after`.

        It begins where the last page ended, whatever was published meanwhile, and costs the same after years as at the start.
        """
        columns = [products.c[name] for name in order]
        wanted = _wanted(asset, since, until, state, removed=True)
        if after is not None:
            here, there = sa.tuple_(*columns), sa.tuple_(*(sa.literal(value, c.type) for value, c in zip(after, columns, strict=True)))
            wanted.append(here < there if descending else here > there)
        by = [column.desc() if descending else column for column in columns]
        return self.index.read(lambda c: rows.select(c, self.root, *wanted, order=by, limit=number))

    def partitions(self, asset: str, since: datetime | str | None = None, until: datetime | str | None = None) -> list[str]:
        """The partitions `products` would give, in order: no product is read for them, only the index of them."""
        wanted = sa.select(products.c.partition_key).where(*_wanted(asset, since, until, "current"))
        return self.index.read(lambda c: list(c.scalars(wanted.order_by(products.c.partition_key))))

    def count(
        self,
        asset: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        state: str | None = "current",
    ) -> dict[str, int]:
        """How many products `products` would give, by asset; assets without any are left out."""
        wanted = _wanted(asset, since, until, state, trials=True)  # trials are few names: cheaper left out afterwards than row by row
        query = sa.select(products.c.asset, sa.func.count()).where(*wanted).group_by(products.c.asset)
        found = self.index.read(lambda c: {str(row[0]): int(row[1]) for row in c.execute(query)})
        return {name: number for name, number in found.items() if asset is not None or not naming.of_trial(name)[1]}

    def settings_of(self, asset: str, since: datetime | str | None = None, until: datetime | str | None = None) -> list[Json]:
        """The settings of the current products of an asset, as `products` would give them, and nothing else of them."""
        wanted = sa.select(products.c.settings).where(*_wanted(asset, since, until, "current"))
        return self.index.read(lambda c: [rows.decode(text) for text in c.scalars(wanted)])

    def digests(self, asset: str, until: datetime | str | None = None) -> dict[str, str]:
        """The digests of the current products of an asset that nothing holds, by partition, also of those retention has taken."""
        wanted = (*_wanted(asset, None, until, "current", removed=True), products.c.held.is_(None))
        query = sa.select(products.c.partition_key, products.c.digest).where(*wanted)
        return self.index.read(lambda c: {row.partition_key: row.digest for row in c.execute(query)})

    def newest_with(self, asset: str, path: Sequence[str], before: str) -> Product | None:
        """The last current product of an asset, of a partition before this one and not held, that has metadata at this path."""

        def work(connection: Connection) -> list[Product]:
            typed = sa.cast if connection.dialect.name == "postgresql" else sa.type_coerce
            there = typed(products.c.metadata, sa.JSON)[tuple(path)].as_string().is_not(None)
            wanted = (*_wanted(asset, None, None, "current"), products.c.partition_key < before, products.c.held.is_(None), there)
            last = sa.select(products.c.id).where(*wanted).order_by(products.c.partition_key.desc()).limit(1)
            return rows.select(connection, self.root, products.c.id.in_(last.subquery().select()))

        return next(iter(self.index.read(work)), None)

    def figures(
        self, asset: str, names: Sequence[str], since: datetime | str | None = None, until: datetime | str | None = None
    ) -> list[Figures]:
        """The figures of these names of the current products `products` would give, in order, also of those retention has taken.

        The database looks at them: no product is read, so that a season costs little. What is no finite number is None.
        """

        def work(connection: Connection) -> list[Figures]:
            told = _metadata(connection)
            columns = [told[name].as_string().label(f"figure_{n}") for n, name in enumerate(names)]
            query = sa.select(products.c.partition_key, products.c.id, products.c.created_at, *columns)
            query = query.where(*_wanted(asset, since, until, "current", removed=True)).order_by(products.c.partition_key)
            return [Figures(key, id_, at, tuple(map(rows.number, values))) for key, id_, at, *values in connection.execute(query)]

        return self.index.read(work)

    def counts(self, asset: str, characters: int, since: str, until: str) -> dict[str, int]:
        """How many current products there are whose partitions begin alike, by so many first characters: 10 of a night, 13 of an hour.

        Those that retention has taken count. The database counts: a season costs little.
        """
        part = sa.func.substr(products.c.partition_key, 1, characters)
        query = sa.select(part, sa.func.count()).where(*_wanted(asset, since, until, "current", removed=True)).group_by(part)
        return self.index.read(lambda c: {str(row[0]): int(row[1]) for row in c.execute(query)})

    def gathered(self, asset: str, name: str, characters: int, since: str, until: str) -> dict[str, list[float]]:
        """A figure of the products that `counts` counts, each group's in order of time; what is no finite number is left out.

        The database puts each group into one row, which costs a third of a row for each product.
        """

        def work(connection: Connection) -> dict[str, list[float]]:
            value = _metadata(connection)[name].as_string()
            some = sa.select(products.c.partition_key.label("key"), value.label("value"))
            some = some.where(*_wanted(asset, since, until, "current", removed=True)).order_by(products.c.partition_key)
            ordered = some.subquery()
            part = sa.func.substr(ordered.c.key, 1, characters)
            query = sa.select(part, sa.func.aggregate_strings(ordered.c.value, _BETWEEN)).group_by(part)
            told = {key: (text or "").split(_BETWEEN) for key, text in connection.execute(query)}
            numbers = {key: [rows.number(one) for one in texts] for key, texts in told.items()}
            return {key: found for key, some_ in numbers.items() if (found := [one for one in some_ if one is not None])}

        return self.index.read(work)

    def intervals(self, asset: str, follower: str, characters: int, since: str, until: str) -> dict[str, list[tuple[str, str]]]:
        """When each of the products that `counts` counts was published, and the first version of `follower` of the same partition (ISO
        8601 to the second, UTC); partitions of which there is none are left out. Joined and put together by the database, a year costs
        half of what two lists of it do.
        """
        early, late = products.alias("early"), products.alias("late")
        stamps = sa.func.substr(early.c.created_at, 1, _SECONDS).concat(sa.func.substr(late.c.created_at, 1, _SECONDS))
        part = sa.func.substr(early.c.partition_key, 1, characters)
        same = (late.c.partition_key == early.c.partition_key, late.c.asset == naming.check_asset(follower), late.c.state == "current")
        query = sa.select(part, sa.func.aggregate_strings(stamps, _BETWEEN)).select_from(
            early.join(late, sa.and_(*same, late.c.version == 1))
        )
        query = query.where(early.c.asset == naming.check_asset(asset), early.c.state == "current")
        query = query.where(*windows.conditions(early.c.partition_key, since, until)).group_by(part)
        told = self.index.read(lambda c: {str(row[0]): str(row[1]).split(_BETWEEN) for row in c.execute(query)})
        return {key: [(text[:_SECONDS], text[_SECONDS:]) for text in texts] for key, texts in told.items()}

    def newest(self, asset: str, number: int = 1, until: datetime | str | None = None) -> list[Product]:
        """The current products of an asset's last partitions, none after `until`, last first; what came before is not read."""
        there = sa.select(products.c.id).where(*_wanted(asset, None, until, "current"))
        last = there.order_by(products.c.partition_key.desc()).limit(number).subquery()
        return self._select(products.c.id.in_(sa.select(last.c.id)))[::-1]

    def nights(self, number: int, asset: str | None = None, until: str | None = None) -> list[str]:
        """The last nights, last first, of which there are current products (of `asset`), none after `until`.

        From each night the index is asked for the one before: what else there is costs nothing. One bound is named, for of two SQLite
        would look for the wider one, and go through all that lies between.
        """
        key = products.c.partition_key
        of = [*_wanted(asset, None, None, "current"), key != ""]

        def last(*before: sa.ColumnElement[bool]) -> sa.ScalarSelect[str]:
            return sa.select(sa.func.substr(key, 1, 10)).where(*of, *before).order_by(key.desc()).limit(1).scalar_subquery()

        bounds = windows.conditions(key, None, until) if until is not None else [key < naming.NAME_MARK]
        found = sa.select(last(*bounds).label("night")).cte("nights", recursive=True)
        found = found.union_all(sa.select(last(key < found.c.night)).where(found.c.night.is_not(None)))
        query = sa.select(found.c.night).where(found.c.night.is_not(None)).limit(number)
        return self.index.read(lambda c: list(c.scalars(query)))

    def tally(self, since: str, until: str) -> dict[tuple[str, str], int]:
        """How many current products there are from one night to another, by (asset, night)."""
        night = sa.func.substr(products.c.partition_key, 1, 10)
        query = sa.select(products.c.asset, night, sa.func.count()).where(*_wanted(None, since, until, "current", trials=True))
        query = query.group_by(products.c.asset, night)
        found = self.index.read(lambda c: c.execute(query).all())
        return {(asset, key): number for asset, key, number in found if not naming.of_trial(asset)[1]}

    def held(self) -> dict[str, str]:
        """The current products that a blocking check holds, with its reason."""
        # nothing else is asked of the database: SQLite would take an index of the current ones, of which there are a million
        query = sa.select(products.c.id, products.c.held, products.c.state, products.c.removed).where(products.c.held.is_not(None))
        found = self.index.read(lambda c: c.execute(query).all())
        own = [row for row in sorted(found) if row.state == "current" and not row.removed and not naming.parse_id(row.id).trial]
        return {row.id: row.held for row in own}

    def without(self, asset: str, follower: str) -> list[str]:
        """The partitions of which there is a current product of `asset`, and of `follower` none, not even a removed one; in order."""
        followed = (products.c.asset == naming.check_asset(follower), products.c.state == "current")
        first, second = (sa.select(products.c.partition_key).where(*some) for some in (_wanted(asset, None, None, "current"), followed))
        query = sa.except_(first, second).order_by("partition_key")  # in order, the database merges the two and keeps neither
        return self.index.read(lambda c: list(c.scalars(query)))

    def among(self, asset: str, partitions: Sequence[str]) -> set[str]:
        """Those of these partitions of which there is, or was before retention, a current product of `asset`."""

        def work(connection: Connection) -> set[str]:
            same = (products.c.asset == naming.check_asset(asset), products.c.state == "current")
            query = sa.select(products.c.partition_key).where(*same)
            return {k for chunk in rows.chunks(partitions) for k in connection.scalars(query.where(products.c.partition_key.in_(chunk)))}

        return self.index.read(work)

    def published(self, since: str | None) -> list[tuple[str, str, str | None, str]]:
        """(created_at, asset, partition, run_id) of what was published after `since`, a `created_at` as this gives it; without it
        the last only."""
        query = sa.select(products.c.created_at, products.c.asset, products.c.partition_key, products.c.run_id)
        query = query.where(rows.is_science(products))
        query = query.where(products.c.created_at > since) if since else query.order_by(products.c.created_at.desc()).limit(1)
        return self.index.read(lambda c: sorted((at, asset, key or None, run) for at, asset, key, run in c.execute(query)))

    def failing(self, since: datetime) -> list[Product]:
        """The current products of science published since then against which any check spoke, oldest first."""
        stamp = since.astimezone(UTC).isoformat(timespec="microseconds")
        wanted = (products.c.created_at >= stamp, products.c.state == "current", rows.is_science(products), _spoken_against())
        return self.index.read(lambda c: rows.select(c, self.root, *wanted, order=(products.c.created_at, products.c.id)))

    def failing_of(self, since: datetime | str, until: datetime | str) -> list[Product]:
        """Those of `products` of these windows against which any check spoke; the others are not read."""
        return self._select(*_wanted(None, since, until, "current"), _spoken_against())

    def published_bytes(self, since: datetime) -> int:
        """The size of what was published since then and is still there, in any state."""
        stamp = since.astimezone(UTC).isoformat(timespec="microseconds")
        query = sa.select(sa.func.sum(products.c.size_bytes)).where(products.c.created_at >= stamp, ~products.c.removed)
        return int(self.index.read(lambda c: c.scalar(query)) or 0)

    def versions(self, asset: str, partition: str | None = None) -> list[Product]:
        """Every version there ever was of one asset's partition, oldest first."""
        return self._select(*_same(naming.check_asset(asset), naming.check_partition(partition)))

    def dependents(self, product_id: str) -> list[Product]:
        """The products made directly from this one, in any state."""
        return _lineage.dependents(self, self.get(product_id))

    def lineage(self, product_id: str) -> LineageNode:
        """What a product was made from, down to the subband files of its subband_groups' manifests."""
        return _lineage.lineage(self, self.get(product_id))

    def reject(self, product_id: str, reason: str) -> Product:
        """Mark a product as bad: it is current no more, its dependents are stale, no older one comes back."""
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
        """What is wrong with a product's files ; [] if every byte is as published."""
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
        """Put `change(state)` into the state file, then the index, under the index's write lock."""
        directory = naming.parse_id(product_id).directory
        self.get(product_id)

        def work(connection: Connection) -> None:
            # The row is locked first, so that two changes to one state file follow each other.
            connection.execute(sa.select(products.c.id).where(products.c.id == product_id).with_for_update())
            state = change(self.state(product_id))
            files.write_json(state_path(self.root, product_id), {k: v for k, v in state.items() if v})
            rows.apply_state(connection, product_id, state)

        with files.typed_errors(f"{product_id}: its state file {directory}.state.json"), claims.claim(self.root, [directory.parent]):
            self.index.write(work)
        return self.get(product_id)

    def state(self, product_id: str) -> Json:
        """The contents of the product's state file; {} while nothing was ever said about it."""
        return files.read_json(state_path(self.root, product_id)) or {}

    def close(self) -> None:
        """Give back the database connections."""
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
    """The small file beside a product that says whether it is rejected, pinned or removed."""
    directory = root / naming.parse_id(product_id).directory
    return directory.with_name(f"{directory.name}.state.json")


def _wanted(
    asset: str | None,
    since: datetime | str | None,
    until: datetime | str | None,
    state: str | None,
    *,
    removed: bool = False,
    trials: bool = False,
) -> list[sa.ColumnElement[bool]]:
    """The conditions of `Archive.products`."""
    found = [products.c.asset == naming.check_asset(asset)] if asset is not None else [] if trials else [rows.is_science(products)]
    if state is not None:
        found += [products.c.state == state, *([] if removed else [~products.c.removed])]
        if state != "current":  # said in words: SQLite does not conclude from it that the index of these few will do
            found.append(products.c.state != "current")
    return [*found, *windows.conditions(products.c.partition_key, since, until)]


def _spoken_against() -> sa.ColumnElement[bool]:
    """Whether any check spoke against a product, as its metadata have it."""
    return products.c.metadata.contains('"n_failed_checks": ') & ~products.c.metadata.contains('"n_failed_checks": 0')


def _same(asset: str, partition: str | None) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return products.c.asset == asset, products.c.partition_key == (partition or "")


def _index(root: Path, database_url: str | None, archive_id: str, patience_s: float) -> Index:
    url = normalise_url(database_url) if database_url else URL.create("sqlite", database=str(root / "index.sqlite"))
    return Index(url, archive_id, patience_s=patience_s)


def _metadata(connection: Connection) -> Any:
    """The products' metadata as JSON to look into; a row that cannot be read must not hide the others."""
    told: Any = products.c.metadata
    if connection.dialect.name == "postgresql":
        return sa.cast(told, sa.JSON)
    return sa.type_coerce(sa.case((sa.func.json_valid(told), told)), sa.JSON)

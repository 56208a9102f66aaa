"""From subband files to a measurement set."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive import quarantine
from dsa110_assets.archive.lineage import MANIFEST
from dsa110_assets.errors import BadDataError, TransientError
from dsa110_assets.orchestration.calibrating import calibrators
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.judging import judges
from dsa110_assets.orchestration.judging.rules import WARN, Rule
from dsa110_assets.orchestration.running import capacity
from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.orchestration.specification.spec import Asset
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from pathlib import Path

    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings

MEASUREMENT_SET = "measurement_set.ms"
_READERS = 4
"""Number of files read at a time; a disk serves several readers better than one."""


def _inbox_files(archive: "Archive", settings: "Settings", partition: str) -> recipes.Ingredients | None:
    start = timegrid.parse_key(partition)
    around = (timegrid.key(start + sign * inbox.NAME_SKEW) for sign in (-1, 1))
    current = archive.current("subband_group", partition)
    own = frozenset(current.settings.get("files", ()) if current else ())
    group_and_identities = inbox.find_group(settings.inbox, partition, settings.subbands, inbox.known(archive, *around), own)
    if group_and_identities is None:
        return None
    group, identities = group_and_identities
    return recipes.Ingredients(facts={"files": list(identities)}, prepared=group)


@Asset(
    "subband_group", grain="observation", kinds={"hdf5"}, code_version="1", finder=_inbox_files,
    shaping=("subbands",), reported=False, columns={"n_subbands": "Subbands"},
    rules=(
        Rule("subbands_known", "enough subbands of the known set are there", ("n_subbands", "n_subbands_needed"),
             judges.subbands_known, hard=True),
        Rule("complete", "no subband is missing", ("n_subbands_missing",), judges.none_of("n_subbands_missing"), severity=WARN),
        Rule("headers_agree", "no file was left out for a header that disagrees", ("n_rejected_files",), judges.none_of("n_rejected_files"),
             severity=WARN),
    ),
)  # fmt: skip
def subband_group(step: Step) -> Mapping[str, Any]:
    """An observation's subband files: those present, those missing, their digests and header values."""
    from dsa110_assets.archive import files

    group, settings = step.prepared, step.settings
    needed = min(settings.min_subbands, settings.subbands)
    paths = [header.path for header in group.files.values()]
    with ThreadPoolExecutor(_READERS) as pool:
        digests = dict(zip(paths, pool.map(files.digest, paths), strict=True))
    files.write_json(
        step.directory / MANIFEST,
        inbox.manifest(group, step.facts["files"], settings.subbands, digests),
    )
    first = next(iter(group.files.values()))
    return {
        "mjd_start": float(group.times_mjd[0]),
        "mjd_end": float(group.times_mjd[-1]) + first.interval_s / 86400,
        "pointing_dec_deg": group.pointing_dec_deg,
        "n_subbands": len(group.files),
        "n_subbands_needed": needed,
        "n_subbands_missing": len(group.missing(settings.subbands)),
        "n_rejected_files": len(group.rejected),
        "n_antennas": first.n_antennas,
        "n_channels": first.n_channels,
        "size_gb": sum(header.size_bytes for header in group.files.values()) / 1e9,
    }


@Asset(
    "measurement_set", grain="observation", kinds={"casacore", "numba"}, code_version="7", inputs=("subband_group",),
    shaping=("flagging", "reader_engine", "name_calibrator_field"), reads_raw_files=True, keep_days=30, reported=False,
    columns={"flag_fraction": "Flagged"},
    disk_per_input=1.2,  # measured 0.91 at full scale
    memory_per_input=0.1,  # at full scale 0.5 GiB in all for 2.3 GB of files, plus a tenth
    rules=(
        Rule("hard_four", "PHASE_DIR, REFERENCE_DIR, TELESCOPE_NAME, field order; uvw, times, frequencies", ("n_problems",),
             judges.problems_found, hard=True),
        Rule("flag_fraction", "not too many samples of living receptors are flagged", ("flag_fraction", "flag_fraction_raw"),
             judges.at_most("flag_fraction", lambda t: t.max_flag_fraction), limits=("max_flag_fraction",)),
        Rule("wide_interference",
             "in most antennas the noise agrees with autocorrelations, so that wide interference can be searched for",
             ("flag_judged_wide",), judges.at_least("flag_judged_wide", lambda t: t.min_judged_wide), severity=WARN,
             limits=("min_judged_wide",)),
    ),
)  # fmt: skip
def measurement_set(step: Step) -> Mapping[str, Any]:
    """The observation as one flagged measurement set: all subbands in one ascending band."""
    from dsa110_assets.visibilities import measurement_set as ms
    from dsa110_assets.visibilities.ingest import ingest

    settings, product = step.settings, step.input("subband_group")
    with step.timed("ingest"), _quarantine_bad_data(step.archive):
        frame, flagged = ingest(
            _unchanged_files(product.path / MANIFEST),
            step.directory / MEASUREMENT_SET,
            n_subbands=settings.subbands,
            options=settings.flagging,
            engine=settings.reader_engine,
            memory_bytes=capacity.available_bytes(settings.memory_limit_gib),
            observer_note=product.id,
        )
    named = calibrators.name_field(step.directory / MEASUREMENT_SET, frame, settings.transits) if settings.name_calibrator_field else ""
    problems = ms.problems(step.directory / MEASUREMENT_SET)
    return {
        "calibrator_field": named,
        **{name: product.metadata[name] for name in ("mjd_start", "mjd_end", "pointing_dec_deg", "n_subbands")},
        **{f"flagged_{cause}": float(part) for cause, part in flagged.causes.items()},
        "flag_fraction": float(flagged.fraction),
        "flag_fraction_raw": float(flagged.fraction_raw),
        "flag_judged_wide": float(flagged.judged_wide),
        "n_dead_receptors": len(flagged.dead_receptors),
        "antennas": [frame.antennas.names[i] for i in frame.active_antennas],
        "problems": problems,
        "n_problems": len(problems),
    }


@contextmanager
def _quarantine_bad_data(archive: "Archive") -> Iterator[None]:
    """Quarantine a file whose header was good but whose data are bad; its group is then made of the others."""
    try:
        yield
    except BadDataError as error:
        if error.path is not None:
            quarantine.quarantine(archive, error.path, str(error))
        raise


def _unchanged_files(manifest: "Path") -> "dict[int, Path]":
    """{subband: file} of a manifest. Raises TransientError if a file is gone, BadDataError if its content has changed."""
    import json
    from pathlib import Path

    from dsa110_assets.archive.files import digest

    files: dict[int, Path] = {}
    contents = json.loads(manifest.read_text())
    for entry in contents["files"]:
        path = Path(entry["path"])
        try:
            status = path.lstat()
        except OSError as error:
            raise TransientError(f"{path}: gone since its observation was accepted ({error}); put it back, then run again") from error
        unchanged = f"{path.name}:{status.st_size}:{status.st_mtime_ns}" in contents["identities"]
        if not unchanged and (status.st_size != entry["size_bytes"] or digest(path) != entry["digest"]):
            raise BadDataError(f"{path}: changed since its observation was accepted; the next scan of the inbox uses it as it is now")
        files[int(entry["subband"])] = path
    return files

"""Trials are made with other settings, visible only on request, and never among science products."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from astropy.io import fits

from dsa110_assets.archive import caltable_registry, integrity, retention, stale, trials
from dsa110_assets.archive.store import Archive
from dsa110_assets.archive.trials import Trial
from dsa110_assets.cli import main
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.requested import requested_mosaics, requesting
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance, trial_runs
from dsa110_assets.orchestration.running.partition_run import QUIET
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.specification import launchpad, spec
from dsa110_assets.settings import Settings, changed
from dsa110_assets.telescope import timegrid
from dsa110_assets.thresholds import Thresholds

HOUR, NIGHT = "2026-01-25T22:00", "2026-01-25"


def science(settings: Settings) -> dict[str, Any]:
    """All state of science products, in the archive and in Dagster, that a trial could have changed."""
    with Archive(settings.archive) as archive, instance.open_instance(settings.dagster_home) as dagster:
        products = {p.id: (p.digest, p.state, p.metadata) for p in archive.products(state=None)}
        assert not [p for p in archive.products(state=None) if p.trial]
        sets = {one.set_id: one.status for one in caltable_registry.sets(archive)}
        dagster_state = {}
        for name in graph.specifications():
            event = dagster.get_latest_materialization_event(dg.AssetKey(name))
            dagster_state[name] = (None if event is None else event.run_id, sorted(dagster.get_materialized_partitions(dg.AssetKey(name))))
        return {
            "products": products, "sets": sets, "counts": archive.count(), "held": archive.held(), "dagster": dagster_state,
            "stale": [one.product.id for one in stale.stale(archive)],
        }  # fmt: skip


def by_hand(settings: Settings, asset: str, partition: str | None, config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    """Materialise as the launchpad does: one asset of one partition, with run config."""
    job = graph.over(Platform(settings)).resolve_implicit_global_asset_job_def()
    with instance.open_instance(settings.dagster_home) as dagster:
        return job.execute_in_process(
            run_config={**QUIET, "ops": {asset: {"config": config}}}, instance=dagster, partition_key=partition,
            asset_selection=[dg.AssetKey(asset)], raise_on_error=False,
        )  # fmt: skip


def some_tile(settings: Settings) -> str:
    with Archive(settings.archive) as archive:
        return archive.partitions("tile_image", NIGHT, NIGHT)[0]


def test_a_tile_made_on_the_launchpad_is_a_trial_only(processed: Settings) -> None:
    key, before = some_tile(processed), science(processed)
    done = by_hand(processed, "tile_image", key, {"trial": "robust_0", "imaging": {"robust": 0.0}})
    assert done.success
    assert done.asset_materializations_for_node("tile_image") == []
    assert science(processed) == before
    with Archive(processed.archive) as archive:
        trial, of_science = Trial(archive, "robust_0").current("tile_image", key), archive.current("tile_image", key)
        assert trial is not None
        assert of_science is not None
        assert trial.id == of_science.id.replace("tile_image", "tile_image~robust_0")
        assert trial.path.is_relative_to(archive.root / "trials" / "robust_0")
        assert (trial.settings["imaging"]["robust"], of_science.settings["imaging"]["robust"]) == (0.0, processed.imaging.robust)
        # a smaller robust parameter gives long baselines more weight: the beam is narrower and the noise higher
        assert trial.metadata["beam_minor_arcsec"] < of_science.metadata["beam_minor_arcsec"]
        assert trial.metadata["radiometer_jy"] > of_science.metadata["radiometer_jy"]
        assert archive.lineage(trial.id).files() == archive.lineage(of_science.id).files()
        assert archive.find(trial.path / "image.fits").id == trial.id
        assert archive.verify(trial) == []
    with instance.open_instance(processed.dagster_home) as dagster:
        (observed,) = dagster.fetch_observations(dg.AssetRecordsFilter(dg.AssetKey("tile_image")), limit=5).records
        seen = observed.event_log_entry.asset_observation
        assert seen is not None
        assert seen.partition == key
        assert seen.metadata["product"].value == trial.id
        assert "preview" in seen.metadata


def test_a_trial_continues_only_from_its_own_products(processed: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    key, before = some_tile(processed), science(processed)
    start = timegrid.parse_key(key)
    made = trial_runs.make(
        processed,
        "natural",
        {"imaging.weighting": "natural"},
        "tile_image",
        "source_measurements",
        start,
        start + timegrid.OBSERVATION_WINDOW,
    )
    assert [product.asset for product in made] == ["tile_image", "hour_mosaic", "source_measurements"]
    tile, hour, _ = made
    with Archive(processed.archive) as archive:
        is_science = archive.current("hour_mosaic", hour.partition)
        assert is_science is not None
        own = [i for i in hour.inputs if "~" in i]
        assert own == [tile.id]
        assert {i.replace("~natural", "") for i in hour.inputs} == set(is_science.inputs)
    assert science(processed) == before
    again = trial_runs.make(processed, "natural", {}, "tile_image", "source_measurements", start, start + timegrid.OBSERVATION_WINDOW)
    assert again == []  # up to date, with the recorded settings of the trial
    assert process(processed).made == ()
    assert science(processed)["products"] == before["products"]


def test_trials_of_every_asset_in_any_order_leave_science_as_it_was(processed: Settings) -> None:
    requested_mosaics.request(processed, "some", requesting.MosaicSelection(tiles=(some_tile(processed),)), "ann")
    before, random = science(processed), np.random.default_rng(12)
    with Archive(processed.archive) as archive:
        partitions = {name: [p.partition for p in archive.products(name)] for name in graph.specifications()}
    names = [name for name in graph.specifications() if partitions[name]]
    assert len(names) == len(graph.specifications())
    for number, asset in enumerate(random.permutation(names)):
        partition = partitions[asset][random.integers(len(partitions[asset]))]
        assert by_hand(processed, asset, partition, {"trial": f"t{number % 3}"}).success, asset
    assert science(processed) == before
    assert process(processed).made == ()
    assert science(processed)["products"] == before["products"]
    with Archive(processed.archive) as archive:
        made = [p for p in archive.products(state=None, trials=True) if p.trial]
        assert {p.asset for p in made} == set(names)
        assert list(integrity.verify(archive)) == []
    Archive(processed.archive).close()
    found = integrity.reindex(processed.archive)
    assert not found.refused
    assert science(processed)["products"].keys() == before["products"].keys()


def test_caltables_of_a_trial_calibrate_that_trial_alone(processed: Settings) -> None:
    assert by_hand(processed, "caltables", NIGHT, {"trial": "solved"}).success
    with Archive(processed.archive) as archive:
        seen = Trial(archive, "solved")
        own = [one for one in caltable_registry.sets(seen) if one.product_id.startswith("caltables~solved")]
        assert own
        assert len(caltable_registry.sets(seen)) == len(caltable_registry.sets(archive))
        assert not [one for one in caltable_registry.sets(archive) if "~" in one.product_id]
        key = archive.partitions("calibrated_ms", NIGHT, NIGHT)[0]
    assert by_hand(processed, "calibrated_ms", key, {"trial": "solved"}).success
    assert by_hand(processed, "calibrated_ms", key, {"trial": "other"}).success
    with Archive(processed.archive) as archive:
        used = {name: Trial(archive, name).current("calibrated_ms", key) for name in ("solved", "other")}
        assert all(product is not None and product.trial for product in used.values())
        assert {name: "caltables~solved" in str(product and product.inputs) for name, product in used.items()} == {
            "solved": True,
            "other": False,
        }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"imaging": {"robust": 0.0}}, "give it a name"),
        ({"trial": "Robust 0", "imaging": {"robust": 0.0}}, "is not a valid name of a trial"),
        ({"trial": "../../x"}, "is not a valid name of a trial"),
        ({"trial": "steep", "imaging": {"robust": 3.0}}, "DSA110_IMAGING__ROBUST=3.0 is refused"),
    ],
)
def test_wrong_trials_are_refused_in_a_sentence_and_leave_nothing(processed: Settings, config: dict[str, Any], words: str) -> None:
    done = by_hand(processed, "tile_image", some_tile(processed), config)
    (failure,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert words in str(failure.user_failure_data.description)
    assert not (processed.archive / "trials").exists()


def test_a_trial_has_one_value_of_a_setting(processed: Settings) -> None:
    platform = Platform(processed)
    platform.for_trial("one", {"imaging.robust": 0.0})
    both = platform.for_trial("one", {"average_times": 2}).settings
    assert (both.imaging.robust, both.average_times) == (0.0, 2)
    with pytest.raises(ConfigurationError, match=r"imaging\.robust=0\.0; choose another name for imaging\.robust=1\.0"):
        platform.for_trial("one", {"imaging.robust": 1.0})
    for wrong in ("imaging", "imaging.robots", "robust", "imaging.robust.x"):
        with pytest.raises(ConfigurationError, match="no such setting"):
            changed(processed, {wrong: 1})


def test_materialising_by_hand_remakes_an_up_to_date_product(processed: Settings) -> None:
    key = some_tile(processed)
    with Archive(processed.archive) as archive:
        first = archive.current("tile_image", key)
        assert by_hand(processed, "tile_image", key, {}).success
        second = archive.current("tile_image", key)
    assert first is not None
    assert second is not None
    assert second.version == first.version + 1
    np.testing.assert_array_equal(fits.getdata(second.path / "image.fits"), fits.getdata(first.path / "image.fits"))


def test_the_launchpad_shows_types_ranges_and_help(processed: Settings) -> None:
    fields = launchpad.schema(spec.assets()["tile_image"])
    assert fields.keys() == {"trial", "imaging", "imaging_engine"}
    imaging: Any = fields["imaging"].config_type
    robust, weighting = imaging.fields["robust"], imaging.fields["weighting"].config_type
    assert robust.config_type.given_name == "Float"
    assert all(part in robust.description for part in ("Briggs", "≤ 2", "default 0.5"))
    assert {value.config_value for value in weighting.enum_values} == {"natural", "uniform", "briggs"}
    for asset in spec.assets().values():
        assert launchpad.schema(asset).keys() == {"trial", *asset.shaping, *asset.asks}


def test_the_shell_makes_lists_and_deletes_trials(
    processed: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("DSA110_INBOX", processed.inbox), ("DSA110_ARCHIVE", processed.archive), ("DAGSTER_HOME", processed.dagster_home)):
        monkeypatch.setenv(name, str(value))
    key = some_tile(processed)
    start = timegrid.parse_key(key)
    within = ["--since", key, "--until", timegrid.key(start + timegrid.OBSERVATION_WINDOW)]
    settings_of_science = [text for name in ("subbands", "min_subbands") for text in ("--set", f"{name}={getattr(processed, name)}")]
    assert main(["trial", "make", "shallow", "--set", "imaging.clean_iterations=0", *settings_of_science, *within, "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert made["id"].startswith("tile_image~shallow-")
    assert main(["products", "--trial", "shallow", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == [made["id"]]
    assert main(["products", "--asset", "tile_image", "--json"]) == 0
    assert "~" not in capsys.readouterr().out
    assert main(["trial", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["settings"]["imaging.clean_iterations"] in (0, "0")
    assert main(["trial", "delete", "shallow"]) == 0
    assert not Path(made["path"]).exists()
    assert main(["trial", "delete", "shallow"]) == 1
    assert "There is no trial 'shallow'" in capsys.readouterr().err
    assert main(["products", "--trial", "shallow"]) == 1


def test_retention_takes_trials_after_their_time_and_science_after_its_own(processed: Settings) -> None:
    key = some_tile(processed)
    assert by_hand(processed, "tile_image", key, {"trial": "brief"}).success
    with Archive(processed.archive) as archive:
        decided = retention.retain(archive, Thresholds(trial_days=0), {}, dry_run=False)
        gone = [d.product for d in decided if d.remove]
        assert [p.trial for p in gone] == ["brief"]
        assert not gone[0].path.exists()
        with pytest.raises(NotFoundError):
            trials.definition(archive, "never")

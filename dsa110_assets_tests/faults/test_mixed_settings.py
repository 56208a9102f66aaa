"""Row 33: inputs made with other settings are always named, and one name means one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.partition_run import QUIET
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.tiny import OBSERVATIONS, tiny_settings

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.orchestration.running.process import ProcessReport
    from dsa110_assets.settings import Settings

HOUR, NIGHT = "2026-01-25T22:00", "2026-01-25"


def remake(settings: Settings, asset: str, key: str) -> tuple[Product, list[dg.AssetCheckEvaluation]]:
    """Make one product again with these settings from the present inputs. Return it and the evaluations of its checks."""
    job = graph.over(Platform(settings)).resolve_implicit_global_asset_job_def()
    with instances.open_instance(settings.dagster_home) as dagster:
        done = job.execute_in_process(
            run_config=QUIET, instance=dagster, partition_key=key, asset_selection=[dg.AssetKey(asset)]
        )  # fmt: skip
    assert done.success
    with Archive(settings.archive) as archive:
        made = archive.current(asset, key)
    assert made is not None
    return made, done.get_asset_check_evaluations()


@pytest.mark.row(33)
@pytest.mark.parametrize(
    ("asset", "key", "change", "named"),
    [
        ("hour_mosaic", HOUR, {"imaging": {"robust": 0.0}}, "tile_image"),
        ("hour_mosaic", HOUR, {"flagging": {"extend_fraction": 0.9}}, "measurement_set"),
        ("light_curves", NIGHT, {"photometry": {"detect_sigma": 6.0}}, "source_measurements"),
    ],
)
def test_inputs_made_with_other_settings_are_named_and_fail_a_check(
    processed: Settings, asset: str, key: str, change: dict[str, dict[str, Any]], named: str
) -> None:
    ((name, options),) = change.items()
    other = tiny_settings(processed.inbox, processed.archive.parent, **{name: {**getattr(processed, name).__dict__, **options}})
    made, checks = remake(other, asset, key)
    inputs = made.metadata["inputs_made_otherwise"]
    record_figure(33, f"{asset}: inputs of other settings named", len(inputs))
    assert {i.partition("-")[0] for i in inputs} == {named}
    assert set(inputs.values()) == {f"made with other settings: {name}"}
    (check,) = [one for one in checks if one.check_name == rules.SAME_SETTINGS.check]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description is not None
    assert min(inputs) in check.description


@pytest.mark.row(33)
def test_products_of_mixed_inputs_are_reported_too(processed: Settings) -> None:
    """A light curve of a mosaic of mixed tiles: its direct inputs are as they would be made now, but their inputs are not."""
    with Archive(processed.archive) as archive:
        before = archive.current("source_measurements", HOUR)
        assert before is not None
        assert before.metadata["inputs_made_otherwise"] == {}
        with archive.publish(
            "source_measurements", HOUR, before.inputs, settings=before.settings, code_version=before.code_version, run_id="r"
        ) as draft:
            for path in before.path.glob("*.parquet"):
                (draft.path / path.name).write_bytes(path.read_bytes())
            draft.metadata.update(before.metadata | {"inputs_made_otherwise": {"tile_image-20260125T2220-v1": "made otherwise"}})
    made, _ = remake(processed, "light_curves", NIGHT)
    assert made.metadata["inputs_made_otherwise"] == {draft.product.id: "made from inputs that were made otherwise"}


@pytest.mark.row(54, cases="definitions that agree")
def test_each_flagged_fraction_has_its_own_name(finished_run: tuple[Settings, ProcessReport]) -> None:
    """The flagged fraction of working receptors and that of all calibrated visibilities never share a name."""
    with Archive(finished_run[0].archive) as archive:
        for key in OBSERVATIONS:
            named: dict[str, set[float]] = {}
            for asset in ("subband_group", "measurement_set", "calibrated_ms", "tile_image"):
                product = archive.current(asset, key)
                assert product is not None
                for name, value in product.metadata.items():
                    if "flag" in name and isinstance(value, int | float):
                        named.setdefault(name, set()).add(float(value))
            assert {"flag_fraction", "flag_fraction_raw", "flag_fraction_calibrated"} <= named.keys()
            assert all(len(values) == 1 for values in named.values()), named

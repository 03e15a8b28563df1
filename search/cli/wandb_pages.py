"""A study in W&B as a workspace and a report, as code: what stands in them, in the terms of wandb-workspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from search import report as tables

COSTS = ("macs", "params")
MOST_VARIED = 8  # config keys beside each other


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown of a study.

    Attributes:
        entity, project, study: where its runs are, and the study that they name in their config.
        curves: columns that each epoch has; the first one judges.
        judged: what the table is judged by, as W&B's summary has it.
        varied: config keys that differ between trials.
        phases: that there are trials of.
        verdict, table, notes: what the study's table says; the table in Markdown.
        run_id: of the study's own run, None where there is none.
    """

    entity: str
    project: str
    study: str
    curves: Sequence[str]
    judged: str
    varied: Sequence[str]
    phases: Sequence[str]
    verdict: str
    table: str
    notes: Sequence[str]
    run_id: str | None = None

    @property
    def chosen(self) -> str:
        """The last value of the first curve, in W&B's summary."""
        return f"{self.curves[0]}.last"


def shown_of(frame: pd.DataFrame, entity: str, project: str, run_id: str | None) -> Shown:
    """What the pages show, from the study's table."""
    table = tables.ablation_table(frame)
    columns = [
        str(name)
        for name in frame
        if str(name).startswith("val_") and name != "val_images" and frame[name].notna().any()
    ]
    first = table.metric.column.replace("test_", "val_", 1)
    curves = [first, *(name for name in columns if name != first)]
    return Shown(
        entity=entity,
        project=project,
        study=str(frame["study"].dropna().iloc[0]),
        curves=curves,
        judged=table.metric.column if table.metric.column not in curves else f"{table.metric.column}.last",
        varied=_varied(frame["overrides"].dropna().tolist()),
        phases=frame["phase"].dropna().unique().tolist(),
        verdict=table.conclusion,
        table=tables.to_markdown(table),
        notes=table.notes,
        run_id=run_id,
    )


def _varied(overrides: Sequence[str]) -> list[str]:
    """Config keys that have more than one value; a group's choice is no key of W&B's config."""
    values: dict[str, set[str]] = {}
    for line in overrides:
        for each in line.split("; "):
            key, _, value = each.partition("=")
            values.setdefault(key.lstrip("+"), set()).add(value)
    return [key for key, found in values.items() if "." in key and len(found) > 1][:MOST_VARIED]


def curve_panels(shown: Shown) -> list[Any]:
    """Each metric over epochs: the mean over the seeds of an arm, in a band of one standard deviation."""
    band: dict[str, Any] = {"groupby": wr.Config("arm"), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    return [wr.LinePlot(title=name, x="epoch", y=[name], **band) for name in (*shown.curves, "train_loss")]


def front_panels(shown: Shown) -> list[Any]:
    """What is judged against each cost."""
    return [
        wr.ScatterPlot(
            title=f"{shown.judged} against {cost}", x=wr.Config(cost), y=wr.SummaryMetric(shown.judged), log_x=True
        )
        for cost in COSTS
    ]


def search_panels(shown: Shown) -> list[Any]:
    """Which settings matter, and which of them go together."""
    keys: list[Any] = [wr.Config(name) for name in (*shown.varied, *COSTS)]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=key) for key in (*keys, wr.SummaryMetric(shown.chosen))]
    return [
        wr.ParameterImportancePlot(with_respect_to=shown.chosen),
        wr.ParallelCoordinatesPlot(title="settings, costs and score", columns=columns),
    ]


def study_panels(shown: Shown) -> list[Any]:
    """How the study went on, by its own run: over the number of trials that have ended."""
    return [
        wr.LinePlot(title="best so far", y=[f"best_{shown.curves[0]}"]),
        wr.LinePlot(title="trials", y=["ok", "pruned", "failed", "taken_over"]),
    ]


def workspace(shown: Shown) -> Any:
    """The runs of the study, grouped by phase and arm, with a section for each question."""
    sections = {
        "Curves": curve_panels(shown),
        "Accuracy and cost": front_panels(shown),
        "What matters": search_panels(shown),
        "The study": study_panels(shown),
        "Predictions": [wr.MediaBrowser(media_keys=["predictions"])],
    }
    runs = ws.RunsetSettings(
        filters=[ws.Config("study") == shown.study],
        groupby=[ws.Config("phase"), ws.Config("arm")],
        pinned_columns=[f"summary:{shown.judged}", *(f"config:{cost}.value" for cost in COSTS)],
    )
    return ws.Workspace(
        entity=shown.entity,
        project=shown.project,
        name=shown.study,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        runset_settings=runs,
    )


def report(shown: Shown) -> Any:
    """The verdict, the table, the plots over a run set for each phase, and what qualifies them."""
    runsets = [
        wr.Runset(
            entity=shown.entity,
            project=shown.project,
            name=phase,
            filters=[ws.Config("study") == shown.study, ws.Config("phase") == phase],
            groupby=["config.arm"],
        )
        for phase in shown.phases
    ]
    blocks: list[Any] = [
        wr.P(text=shown.verdict),
        wr.H2(text="Table"),
        wr.MarkdownBlock(text=shown.table),
        wr.H2(text="Plots"),
        wr.PanelGrid(runsets=runsets, panels=[*curve_panels(shown), *front_panels(shown), *search_panels(shown)]),
        wr.H2(text="Notes"),
        wr.UnorderedList(items=list(shown.notes)),
    ]
    if shown.run_id is not None:
        own = wr.Runset(
            entity=shown.entity,
            project=shown.project,
            name="the study's own run",
            filters=[ws.Config("study") == shown.study, ws.Metric("JobType") == "study"],
        )
        blocks += [wr.H2(text="The study"), wr.PanelGrid(runsets=[own], panels=study_panels(shown))]
    return wr.Report(
        entity=shown.entity,
        project=shown.project,
        title=f"{shown.study} report"[:128],
        description=shown.verdict[:200],
        blocks=blocks,
        width="fluid",
    )

"""One partition a run with PipelineOperator: no quoting, failures that a retry cannot mend fail at once, on_kill."""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import Param, dag, task

from pipeline.airflow import PipelineOperator

PYTHON = os.environ.get("ETL_PYTHON", "/srv/etl/.venv/bin/python")
DATA = os.environ.get("ETL_DATA", "/data")
DAY = "{{ params.date or macros.ds_add((dag_run.logical_date or dag_run.run_after) | ds, -1) }}"


@dag(
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=True,
    max_active_runs=2,
    params={
        "date": Param(None, type=["null", "string"], format="date", description="a partition; empty: the day before")
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
)
def etl_by_operator():
    """`/data/in/dt=<day>` to `/data/out/dt=<day>`."""
    etl = PipelineOperator(
        task_id="etl",
        python=PYTHON,
        cwd="/",
        overrides={
            "date": DAY,
            "source.path": DATA + "/in/dt=${date}",
            "sink.path": DATA + "/out/dt=${date}",
            "transform": "clip",
            "transform.min": 0,
        },
        execution_timeout=timedelta(hours=1),
    )

    @task
    def tell(summary):
        print(f"{summary['output']}: {summary['rows']} rows, {summary['parts_made']} parts made now")

    tell(etl.output)


etl_by_operator()

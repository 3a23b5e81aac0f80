"""One partition a run: the day before the run's date, whether the schedule, a backfill or a person started it."""

import json
import os
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Param, dag, task

PYTHON = os.environ.get("ETL_PYTHON", "/srv/etl/.venv/bin/python")  # where the stage is installed; not Airflow's own
DATA = os.environ.get("ETL_DATA", "/data")

# A run that somebody triggers by hand has no logical date and no data interval; `run_after` is always there.
DAY = "{{ params.date or macros.ds_add((dag_run.logical_date or dag_run.run_after) | ds, -1) }}"


@dag(
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=True,  # Airflow 3 leaves it out unless it is asked for
    max_active_runs=2,
    params={
        "date": Param(None, type=["null", "string"], format="date", description="a partition; empty: the day before")
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
)
def etl_by_date():
    """`/data/in/dt=<day>` to `/data/out/dt=<day>`."""
    etl = BashOperator(
        task_id="etl",
        bash_command=f"""exec {PYTHON} -m pipeline "date=$DAY" 'source.path="{DATA}/in/dt=${{date}}"' """
        f"""'sink.path="{DATA}/out/dt=${{date}}"' transform=clip transform.min=0""",
        env={"DAY": DAY},
        append_env=True,  # or the environment would hold nothing else
        cwd="/",  # the default is a new temporary folder for each try
        execution_timeout=timedelta(hours=1),
        output_processor=json.loads,  # the last line is the summary: the XCom of the task
    )

    @task
    def tell(summary):
        print(f"{summary['output']}: {summary['rows']} rows, {summary['parts_made']} parts made now")

    tell(etl.output)


etl_by_date()

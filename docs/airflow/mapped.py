"""The latest partitions, one mapped task each, a run: what is late or changed is made, the rest was made before."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag, task

PYTHON = os.environ.get("ETL_PYTHON", "/srv/etl/.venv/bin/python")
DATA = os.environ.get("ETL_DATA", "/data")
LATEST = 30  # partitions; each costs the start of a process, and Airflow maps at most [core] max_map_length, 1024


@dag(schedule="@hourly", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1)
def etl_mapped():
    """No date of Airflow is used, so a run by hand is like any other."""

    @task
    def days():
        names = sorted(folder.name for folder in Path(DATA, "in").glob("dt=*"))
        return [{"DAY": name.removeprefix("dt=")} for name in names[-LATEST:]]

    BashOperator.partial(
        task_id="etl",
        bash_command=f"""exec {PYTHON} -m pipeline "date=$DAY" 'source.path="{DATA}/in/dt=${{date}}"' """
        f"""'sink.path="{DATA}/out/dt=${{date}}"' transform=clip transform.min=0""",
        append_env=True,
        cwd="/",
        max_active_tis_per_dagrun=2,  # as many as the machine, or its GPU, takes
        map_index_template="{{ task.env['DAY'] }}",
        execution_timeout=timedelta(hours=1),
        retries=2,
    ).expand(env=days())


etl_mapped()

import subprocess
import sys


def test_what_celery_imports_late_is_there_before_any_thread_is() -> None:
    script = (
        "import sys, memory.adapters.jobs.celery_app as jobs\n"
        "before = {name for name in sys.modules if name.startswith(('celery', 'kombu'))}\n"
        "from pathlib import Path; from memory.adapters.jobs.settings import JobSettings\n"
        "app = jobs.job_app('memory://', JobSettings(), Path('.')); app.send_task('sweep')\n"
        "late = {name for name in sys.modules if name.startswith(('celery.events', 'celery.app.amqp'))} - before\n"
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

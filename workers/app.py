"""Which jobs are there, and under which names do they travel?"""

import logging

from memory.adapters.jobs.celery_app import JobApp, job_app
from memory.services.tasks import CODEC, CONSOLIDATE, EMBED, EVICT, FORGET, INDEXES, PURGE, REEMBED, SWEEP
from memory.settings import Settings
from workers.codec import codec
from workers.consolidate import consolidate
from workers.embed import embed
from workers.evict import evict
from workers.forget import forget
from workers.indexes import indexes
from workers.purge import purge
from workers.reembed import reembed
from workers.schedule import EXPIRE, UPKEEP, table
from workers.sweep import expire, sweep, upkeep
from workers.task import Bridge, Job, register

JOBS: dict[str, Job] = {
    CODEC: codec,
    CONSOLIDATE: consolidate,
    EMBED: embed,
    EVICT: evict,
    INDEXES: indexes,
    PURGE: purge,
    FORGET: forget,
    REEMBED: reembed,
    SWEEP: sweep,
    UPKEEP: upkeep,
    EXPIRE: expire,
}
_LEAST_LEVEL = {
    "celery": logging.WARNING,
    "celery.app.trace": logging.ERROR,  # its only warning is the traceback of a job that goes back at the stop
    "kombu": logging.WARNING,
    "amqp": logging.WARNING,
}


def make_app(settings: Settings, bridge: Bridge) -> JobApp:
    """The Celery application of the workers: every job, run on `bridge`, and the time-table."""
    _quiet(settings.log_level)
    app = job_app(settings.broker_url, settings.jobs, settings.data_dir)
    app.conf.beat_scheduler = "celery.beat:Scheduler"  # the default one keeps a pickle on disk
    app.conf.beat_schedule = table(settings.jobs)
    for name, job in JOBS.items():
        register(app, bridge, settings.jobs, name, job)
    app.finalize()
    return app


def _quiet(log_level: str) -> None:
    """Celery writes two lines for each task at INFO, the sweeps included; an operator who wants them says DEBUG."""
    for name, level in _LEAST_LEVEL.items():
        logger = logging.getLogger(name)
        if log_level != "DEBUG" and logger.level == logging.NOTSET:
            logger.setLevel(level)

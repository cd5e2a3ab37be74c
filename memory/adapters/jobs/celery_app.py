"""What must both ends of the broker agree on: which queue, which format, which time limits?

API and workers build their Celery application here; the workers add tasks and the time-table.
"""

import hashlib
import socket
from pathlib import Path
from typing import Any

# Celery imports these two when they are first asked for. Two threads that do so from both ends block each other: at the
# first start a job could not be published (_DeadlockError).
import celery.app.amqp
import celery.events  # noqa: F401
import kombu
from celery import Celery

from memory.adapters.jobs.settings import JobSettings

CONNECT_TIMEOUT = 2.0
"""Seconds until an unreachable broker is an error."""
ANSWER_TIMEOUT = 5.0
"""Seconds a connected broker may take to answer."""
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class JobApp(Celery):
    """Connects to the broker of our settings only: for Celery `CELERY_BROKER_URL`, meant for another project, wins."""

    def __init__(self, broker_url: str) -> None:
        # "disabled" explicitly: CELERY_RESULT_BACKEND would win as well. No fixups: they import Django when asked to.
        self._broker = "memory://localhost" if broker_url == "memory://" else broker_url  # kombu warns without a host
        super().__init__("stratamem", broker=self._broker, backend="disabled://", set_as_current=False, fixups=[])

    def connection_for_read(self, url: str | None = None, **options: Any) -> kombu.Connection:
        return super().connection_for_read(url or self._broker, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> kombu.Connection:
        return super().connection_for_write(url or self._broker, **options)


def job_app(broker_url: str, jobs: JobSettings, data_dir: Path) -> JobApp:
    """A Celery application that speaks JSON, keeps no results and acknowledges when the work is done."""
    app = JobApp(broker_url)
    queue = queue_name(broker_url, jobs, data_dir)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        task_ignore_result=True,
        result_expires=None,
        enable_utc=True,
        timezone="UTC",
        task_default_queue=queue,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,  # who publishes decides about trying again
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_enable_prefetch_count_reduction=False,
        worker_send_task_events=False,
        broker_connection_timeout=CONNECT_TIMEOUT,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=0,  # a consumer at work can't answer one; TCP keep-alive notices a dead peer
        broker_pool_limit=0,  # only retries would use it, rarely; a pooled connection would be stale by then
        broker_transport_options=_transport_options(broker_url, queue, jobs),
    )
    return app


def queue_name(broker_url: str, jobs: JobSettings, data_dir: Path) -> str:
    """kombu keeps in-process queues in module globals: there the name tells the systems of one process apart."""
    if not embedded(broker_url):
        return jobs.queue
    place = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()
    return f"{jobs.queue}-{place[:12]}"


def embedded(broker_url: str) -> bool:
    """The broker lives and dies with this process."""
    return broker_url.startswith("memory:")


def _transport_options(broker_url: str, queue: str, jobs: JobSettings) -> dict[str, Any]:
    if embedded(broker_url):
        return {"polling_interval": jobs.polling_interval}
    if broker_url.startswith(("redis", "sentinel")):
        return {
            "visibility_timeout": jobs.visibility,
            "global_keyprefix": f"{queue}:",  # "unacked" would be shared with every other project on the same Redis
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": ANSWER_TIMEOUT,
            "socket_keepalive": True,
            "socket_keepalive_options": _keepalive(),
        }
    return {"confirm_publish": True, "read_timeout": ANSWER_TIMEOUT, "write_timeout": ANSWER_TIMEOUT}


def _keepalive() -> dict[int, int]:
    """Seconds and counts by socket option, as far as the platform has them."""
    return {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}

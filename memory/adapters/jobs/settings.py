"""How do jobs travel, and how often is upkeep done?"""

from pydantic import BaseModel, Field


class JobSettings(BaseModel):
    polling_interval: float = Field(
        default=0.02, gt=0, description="Embedded: seconds between looks at the in-process broker."
    )
    sweep_every: float = Field(default=15, gt=0, description="Seconds between sweeps for unfinished outbox rows.")
    sweep_idle: float = Field(default=10, ge=0, description="A job queued for longer (seconds) is sent again.")
    lease: float = Field(default=120, gt=0, description="Seconds a worker may be silent before its job is sent again.")
    concurrency: int = Field(default=2, ge=1, le=64, description="Jobs at a time of one process.")
    retention_days: float = Field(default=7, gt=0, description="How long finished operations stay visible.")
    upkeep_every: float = Field(
        default=3600, gt=0, description="Seconds between runs that forget what is older than it has to be kept."
    )
    expire_every: float = Field(
        default=300,
        gt=0,
        description="Seconds between runs that remove memories whose ttl is over; nobody sees them in between.",
    )
    queue: str = Field(
        default="stratamem",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name of the queue; two systems that share one broker need two.",
    )
    backlog: int = Field(
        default=10_000,
        ge=1,
        description="Jobs that wait in a process while the broker is away; the rest is swept.",
    )
    visibility: float = Field(
        default=600, ge=1, description="Redis: seconds until a job that a killed worker had taken is handed out again."
    )
    retries: int = Field(default=5, ge=0, le=20, description="Tries again after a passing error; then it is swept.")
    retry_after: float = Field(
        default=1, gt=0, description="Seconds until the first retry; each next one waits twice as long, 60 at most."
    )

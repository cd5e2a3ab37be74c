"""What can be set? Read from the environment (`STRATAMEM_…`, nested with `__`) and `.env` by entry points only."""

import functools
import ipaddress
from enum import StrEnum
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from memory.adapters.identity.settings import OidcSettings
from memory.adapters.jobs.settings import JobSettings
from memory.adapters.models.settings import GenerationSettings, Precision
from memory.adapters.sql.settings import DatabaseSettings
from memory.recall.settings import RecallSettings
from memory.services.settings import AuditSettings, CodecSettings, LimitSettings, MemorySettings, ReceiptSettings
from memory.tiers.hot.settings import HotSettings
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.semantic.settings import SemanticSettings

EMBEDDED_BROKER = "memory://"


class AuthMode(StrEnum):
    AUTO = "auto"
    REQUIRED = "required"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="STRATAMEM_", env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    data_dir: Path = Field(default=Path("./data"), description="Where the embedded database and the indexes live.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on.")
    auth: AuthMode = Field(
        default=AuthMode.AUTO, description="auto: keys are needed on any address but loopback; required: always."
    )
    database_url: str | None = Field(
        default=None, description="postgresql://… or sqlite:///…; unset: SQLite in the data folder."
    )
    broker_url: str = Field(
        default=EMBEDDED_BROKER,
        description="redis://… or amqp://…; unset: the workers run inside the API process.",
    )
    embedder: str = Field(
        default="minilm", description="minilm (packaged), a sentence-transformers folder, or a hub id."
    )
    embedder_precision: Precision = Field(
        default=Precision.AUTO,
        description="auto: int8 for the packaged model where the CPU has byte products (VNNI) and there is no GPU, else"
        " float32; all processes of one database need the same, so name it where their machines differ.",
    )
    models_dir: Path | None = Field(
        default=None,
        description="Keeps what is made of a model once (its int8 form, some ten seconds); unset: in the data folder.",
    )
    model: str | None = Field(
        default=None,
        description="What writes answers: fixture, a folder, a hub id, or an OpenAI-compatible URL; unset: nothing.",
    )
    runtime_url: str | None = Field(
        default=None,
        description="Of a `stratamem runtime` that generates and embeds for this process; unset: it does so itself.",
    )
    runtime_key: str | None = Field(
        default=None,
        description="What the runtime and those who ask it share; needed where it listens on any address but loopback.",
    )
    runtime_host: str = Field(default="127.0.0.1", description="Address that `stratamem runtime` listens on.")
    runtime_port: int = Field(default=8090, ge=0, le=65535, description="Port that `stratamem runtime` listens on.")
    admin_page: bool = Field(default=True, description="Whether the operators' web page is served at /admin.")
    node: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Names this API process's folders (indexes, KV); unset: its port. Two processes never share one.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(default="console", pattern="^(console|json)$", description="console or json.")

    database: DatabaseSettings = DatabaseSettings()
    jobs: JobSettings = JobSettings()
    hot: HotSettings = HotSettings()
    semantic: SemanticSettings = SemanticSettings()
    longterm: LongTermSettings = LongTermSettings()
    recall: RecallSettings = RecallSettings()
    codecs: CodecSettings = CodecSettings()
    generation: GenerationSettings = GenerationSettings()
    memories: MemorySettings = MemorySettings()
    limits: LimitSettings = LimitSettings()
    audit: AuditSettings = AuditSettings()
    receipts: ReceiptSettings = ReceiptSettings()
    oidc: OidcSettings = OidcSettings()

    @field_validator("runtime_url", "runtime_key", "model", "models_dir", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        """compose.yaml passes on what the operator did not set as an empty text."""
        return value or None

    @property
    def storage_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'stratamem.db'}"

    @property
    def embedded(self) -> bool:
        """Workers run inside the API process."""
        return self.broker_url == EMBEDDED_BROKER

    @property
    def node_name(self) -> str:
        return self.node or f"port-{self.port}"

    @property
    def index_dir(self) -> Path:
        return self.data_dir.resolve() / "index" / self.node_name

    @property
    def receipts_dir(self) -> Path:
        return (self.receipts.folder or self.data_dir / "receipts").resolve()

    @property
    def exports_dir(self) -> Path:
        return (self.models_dir or self.data_dir / "models").resolve()

    @property
    def engine_elsewhere(self) -> bool:
        """`model` is the URL of another engine."""
        return self.model is not None and self.model.startswith(("http://", "https://"))

    @property
    def kv_dir(self) -> Path | None:
        """None: this process has no model of its own."""
        if self.model is None or self.engine_elsewhere or self.runtime_url is not None:
            return None
        return self.data_dir.resolve() / "kv" / self.node_name

    @property
    def runtime_kv_dir(self) -> Path:
        return self.data_dir.resolve() / "kv" / "runtime"

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def keys_needed(self) -> bool:
        return self.auth is AuthMode.REQUIRED or not self.loopback


@functools.lru_cache(maxsize=8)  # every request asks
def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""What can be set about models? `STRATAMEM_GENERATION__…`, `STRATAMEM_EMBEDDER_PRECISION`."""

from pydantic import BaseModel, ConfigDict, Field

from model_runtime.embedders.precision import Precision

__all__ = ["GenerationSettings", "Precision"]


class GenerationSettings(BaseModel):
    model_config = ConfigDict(frozen=True)

    device_mib: int = Field(default=2_048, ge=1, description="KV where the model computes, in MiB.")
    host_mib: int = Field(default=1_024, ge=0, description="KV in main memory, in MiB.")
    disk_mib: int = Field(default=16_384, ge=0, description="KV in the data folder, in MiB; 0: none.")
    tenant_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Of each KV tier, what one tenant may hold when others need room.",
    )
    pin_share: float = Field(
        default=0.5, ge=0, le=1, description="Of a tenant's share of the lowest tier, how much it may pin."
    )
    tenant_answers: int = Field(
        default=48, ge=1, le=64, description="Answers at a time of one tenant; there are 64 places."
    )
    context_tokens: int | None = Field(
        default=None,
        ge=256,
        description="Most that window and recall take of a prompt; unset: the whole window, as far as the model reads.",
    )
    warm: bool = Field(
        default=True, description="After a reply, compute ahead what the session's next prompt begins with."
    )
    turn_lease: float = Field(
        default=30, ge=0.1, description="Seconds of silence after which a session goes on without a turn's process."
    )
    turn_patience: float = Field(
        default=120, gt=0, description="Seconds that a turn waits for the earlier ones of its session."
    )
    turns_waiting: int = Field(default=16, ge=0, description="Turns of one session that wait, in all processes.")
    threads: int | None = Field(default=None, ge=1, description="Cores that generation uses; unset: torch's choice.")
    dtype: str | None = Field(
        default=None,
        pattern="^(float32|bfloat16|float16)$",
        description="Of weights and KV; unset: bfloat16 on a GPU, float32 on a CPU.",
    )
    sparse_dense_tokens: int = Field(
        default=16_384, ge=0, description="With fidelity sparse: up to so many tokens everything is read."
    )
    sparse_window_tokens: int = Field(
        default=8_192, ge=0, description="Above that: the newest tokens that are always read."
    )
    sparse_top_k: int = Field(
        default=64, ge=1, description="Above that: earlier blocks of 512 tokens that each layer reads, the best ones."
    )
    sparse_dense_layers: int = Field(default=2, ge=0, description="First layers that read everything all the same.")
    sparse_least_coverage: float = Field(
        default=0.9, ge=0, le=1, description="Share of the attention's mass below which everything is read for a while."
    )
    remote_model: str = Field(
        default="default", description="The name that the engine knows its model by, where STRATAMEM_MODEL is a URL."
    )
    remote_key: str | None = Field(default=None, description="The engine's API key, where it wants one.")
    remote_tokens: int = Field(default=32_768, ge=512, description="The context length of the engine's model.")
    remote_timeout: float = Field(default=600.0, gt=0, description="Seconds that the engine may be silent.")

"""How far does a search look, and when are the indexes written to disk?"""

from pydantic import BaseModel, Field


class LongTermSettings(BaseModel):
    vectors: str = Field(
        default="faiss",
        pattern="^(faiss|milvus|flat)$",
        description="Where vectors are searched: faiss (files of this process), milvus, or flat (numpy: for tests).",
    )
    milvus_uri: str = Field(
        default="http://127.0.0.1:19530",
        description="Of a Milvus server or cluster; a path ending in .db for milvus-lite in this process.",
    )
    milvus_token: str = Field(default="", repr=False, description="`user:password` or an API key of that Milvus.")
    scan_limit: int = Field(
        default=4_000, ge=100, description="Up to so many visible items, all are ranked; above, the best candidates."
    )
    candidates: int = Field(default=200, ge=10, description="Best by vector and best by words that are ranked.")
    embed_on_recall: int = Field(
        default=8,
        ge=0,
        le=64,
        description="Of so many newest items in scope, a recall embeds on the spot those that have no vector yet.",
    )
    commit_after: int = Field(default=2_000, ge=1, description="Documents after which the word index is committed.")
    snapshot_seconds: float = Field(default=30, gt=0, description="Least time between two saves of the vectors.")
    follow_seconds: float = Field(default=0.5, gt=0, description="How often the change feed is looked at when idle.")
    open_tenants: int = Field(default=64, ge=1, description="Tenants whose indexes stay in memory.")
    open_patience: float = Field(
        default=10,
        gt=0,
        description="Seconds that a recall waits for an index that is being built; then the other tiers answer.",
    )

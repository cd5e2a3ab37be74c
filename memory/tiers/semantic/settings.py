"""How fine are the clusters, and how many are probed?"""

from pydantic import BaseModel, Field


class SemanticSettings(BaseModel):
    segments_per_cluster: int = Field(default=8, ge=1, description="One centroid per so many segments, about.")
    max_clusters: int = Field(default=2_048, ge=1, description="Centroids of one session at most.")
    join_similarity: float = Field(
        default=0.55, ge=-1, le=1, description="A segment joins the nearest centroid from this cosine on."
    )
    probes: int = Field(default=16, ge=1, description="Centroids whose members a recall looks at.")
    cached_sessions: int = Field(default=256, ge=1, description="Sessions whose clusters stay in memory.")

"""When do two memories say the same?"""

from pydantic import BaseModel, Field


class MemorySettings(BaseModel):
    near_duplicate: float = Field(
        default=0.9,
        ge=0.5,
        le=1,
        description="Cosine from which a memory is marked as repeating another; 1: only what is the same.",
    )

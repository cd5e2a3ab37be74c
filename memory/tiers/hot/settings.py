"""How large is the window?"""

from pydantic import BaseModel, Field


class HotSettings(BaseModel):
    range_tokens: int = Field(
        default=4_096, ge=512, description="The window gives up its oldest tokens in ranges of this many."
    )

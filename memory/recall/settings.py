"""How much is looked at and shown?"""

from pydantic import BaseModel, Field


class RecallSettings(BaseModel):
    passage_tokens: int = Field(
        default=512, ge=32, description="A longer event is shown by its best passage of about this many tokens."
    )
    max_query_tokens: int = Field(
        default=8_192, ge=1, description="Of a longer query the beginning, about so many tokens, is looked for."
    )

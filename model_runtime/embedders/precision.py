"""In which numbers does the embedder compute?"""

from enum import StrEnum


class Precision(StrEnum):
    AUTO = "auto"
    """int8 for the packaged model where the CPU multiplies bytes and there is no GPU, else float32."""
    FLOAT32 = "float32"
    INT8 = "int8"

"""Blocks in the memory of the machine: encoded once, handed out as they are."""

from model_runtime.kv.stored import StoredBlock


class HostTier:
    """Bounded by bytes; who puts makes room first. One thread only."""

    def __init__(self, quota_bytes: int) -> None:
        self.quota_bytes = quota_bytes
        self.bytes = 0
        self._blocks: dict[bytes, StoredBlock] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def has(self, block_id: bytes) -> bool:
        return block_id in self._blocks

    def lacks(self, nbytes: int) -> int:
        """Bytes that must go before so many more fit."""
        return max(0, self.bytes + nbytes - self.quota_bytes)

    def put(self, block: StoredBlock) -> bool:
        """False when there is no room."""
        if self.has(block.block_id):
            return True
        if self.lacks(block.nbytes):
            return False
        self._blocks[block.block_id] = block
        self.bytes += block.nbytes
        return True

    def get(self, block_id: bytes, token_ids: tuple[int, ...] | None) -> StoredBlock | None:
        """None for a block that is not here or is one of other tokens (None: whichever its name stands for)."""
        block = self._blocks.get(block_id)
        return block if block is not None and token_ids in (None, block.token_ids) else None

    def size(self, block_id: bytes) -> int:
        """Bytes; 0 where it is not here."""
        block = self._blocks.get(block_id)
        return 0 if block is None else block.nbytes

    def drop(self, block_id: bytes) -> int:
        block = self._blocks.pop(block_id, None)
        if block is None:
            return 0
        self.bytes -= block.nbytes
        return block.nbytes

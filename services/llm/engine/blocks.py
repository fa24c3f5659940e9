"""Which blocks of the K/V cache are free: plain bookkeeping, no tensors."""

from __future__ import annotations


class BlockAllocator:
    """Hands out blocks of `block_size` K/V rows each and takes every one of them back exactly once."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(reversed(range(num_blocks)))

    @property
    def used(self) -> int:
        return self.num_blocks - len(self._free)

    def shortage(self, blocks: list[int], rows: int) -> int:
        """How many free blocks are lacking before `blocks` can grow to hold `rows` rows (0 when they suffice)."""
        return max(0, self._wanted(blocks, rows) - len(self._free))

    def grow(self, blocks: list[int], rows: int) -> None:
        """Extends `blocks` until it holds `rows` rows. Raises MemoryError when `shortage` is not 0."""
        wanted = self._wanted(blocks, rows)
        if wanted > len(self._free):
            raise MemoryError(f"{wanted} K/V blocks wanted, {len(self._free)} free")
        for _ in range(wanted):
            blocks.append(self._free.pop())

    def release(self, blocks: list[int]) -> None:
        """Takes all of `blocks` back and empties the list, so that nothing can be returned twice."""
        self._free.extend(reversed(blocks))
        blocks.clear()

    def _wanted(self, blocks: list[int], rows: int) -> int:
        return max(0, -(-rows // self.block_size) - len(blocks))

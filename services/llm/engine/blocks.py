"""The free blocks of the K/V cache, without any tensors."""

from __future__ import annotations


class BlockAllocator:
    """Allocates blocks of `block_size` K/V slots each; a slot holds the keys and values of one token."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(reversed(range(num_blocks)))

    @property
    def used(self) -> int:
        return self.num_blocks - len(self._free)

    def shortage(self, blocks: list[int], slots: int) -> int:
        """Return how many free blocks are missing for `blocks` to grow to `slots` slots; 0 if there are enough."""
        return max(0, -(-slots // self.block_size) - len(blocks) - len(self._free))

    def grow(self, blocks: list[int], slots: int) -> None:
        """Extend `blocks` to hold `slots` slots. Raises MemoryError if `shortage` is not 0."""
        missing = -(-slots // self.block_size) - len(blocks)
        if missing > len(self._free):
            raise MemoryError(f"{missing} K/V blocks are needed, {len(self._free)} are free")
        for _ in range(missing):
            blocks.append(self._free.pop())

    def release(self, blocks: list[int]) -> None:
        """Free all of `blocks` and empty the list, so that no block can be freed twice."""
        self._free.extend(reversed(blocks))
        blocks.clear()

"""A heap of integers by key, from which anything can be taken out at any time.

Schedule and backlog both need the smallest of 100,000 things whose order changes or which go away while they wait. A
changed or removed entry stays in the heap as garbage until it comes to the top; when garbage outweighs what lives, the
heap is built anew, so that every operation costs O(log n) on average and the memory at most doubles.
"""

import heapq

#: Below this many entries garbage is not worth a thought.
_SMALL = 64


class LazyHeap:
    """Entries are tuples of integers, the key last: compared whole, so that two keys never tie."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, ...]] = []
        self._live: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: int) -> bool:
        return key in self._live

    def set(self, key: int, *order: int) -> None:
        """Put `key` in at `order`, wherever it was before."""
        entry = (*order, key)
        if self._live.get(key) == entry:
            return
        self._live[key] = entry
        heapq.heappush(self._heap, entry)
        self._sweep()

    def discard(self, key: int) -> None:
        if self._live.pop(key, None) is not None:
            self._sweep()

    def first(self) -> tuple[int, ...] | None:
        """The smallest entry, or None if there is none."""
        # By identity, not by value: of two equal entries of a key that left and came back only one lives.
        while self._heap and self._live.get(self._heap[0][-1]) is not self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def pop(self) -> tuple[int, ...] | None:
        """Take the smallest entry out, or None if there is none."""
        entry = self.first()
        if entry is not None:
            heapq.heappop(self._heap)
            del self._live[entry[-1]]
        return entry

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._live) + _SMALL:
            self._heap = list(self._live.values())
            heapq.heapify(self._heap)

"""A histogram of latencies: bounded memory, percentiles within 2 %, an exact maximum. Pure."""

import math
from collections import Counter
from dataclasses import dataclass, field

# Ratio of a bucket's bound to the bound below it: a percentile is at most 2 % off.
_GROWTH = 1.02
_STEP = math.log(_GROWTH)


@dataclass
class Latency:
    """How long messages took from send to receipt."""

    buckets: Counter[int] = field(default_factory=Counter)
    count: int = 0
    longest: int = 0  # ns

    def record(self, nanoseconds: int) -> None:
        """Record one latency; everything below a microsecond counts as a microsecond."""
        self.buckets[int(math.log(max(nanoseconds, 1000)) / _STEP)] += 1
        self.count += 1
        self.longest = max(self.longest, nanoseconds)

    def add(self, other: "Latency") -> None:
        """Add the latencies that another process measured."""
        self.buckets += other.buckets
        self.count += other.count
        self.longest = max(self.longest, other.longest)

    def percentile(self, part: float) -> float:
        """Return the latency, in seconds, below which ``part`` (0 to 1) of all lie; 0 without latencies."""
        rest = self.count * part
        for bucket in sorted(self.buckets):
            rest -= self.buckets[bucket]
            if rest <= 0:
                return min(math.exp((bucket + 1) * _STEP), self.longest) / 1e9
        return self.longest / 1e9

    def summary(self) -> dict[str, float]:
        """Return count, p50, p99 and max, times in seconds."""
        return {
            "count": self.count,
            "p50": round(self.percentile(0.5), 6),
            "p99": round(self.percentile(0.99), 6),
            "max": round(self.longest / 1e9, 6),
        }

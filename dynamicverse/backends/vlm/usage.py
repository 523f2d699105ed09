"""What the questions about one scene took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dynamicverse.config import VlmConfig

MILLION = 1_000_000


@dataclass
class Usage:
    """requests: that were answered; cached: answers from the cache, which cost nothing;
    retries: further tries because the service failed; repairs: answers that did not fit the
    schema; tokens as the server counts them, 0 where it does not."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    repairs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def facts(self, settings: VlmConfig) -> dict[str, Any]:
        """For the manifest; `cost_usd` only where the model's price is configured."""
        found: dict[str, Any] = {"model": settings.model, **asdict(self)}
        price = settings.prices.get(settings.model)
        if price is not None:
            cost = self.prompt_tokens * price.input + self.completion_tokens * price.output
            found["cost_usd"] = round(cost / MILLION, 6)
        return found

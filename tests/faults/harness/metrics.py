"""What the processes say of themselves."""

import asyncio
import http.client
import urllib.request
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


async def total(url: str, metric: str, is_meant: Callable[[Labels], bool]) -> int:
    """The sum of a counter over all labels that are meant, since the process at ``url`` started. Raises OSError."""
    _, text = await asyncio.to_thread(get, f"{url}/metrics")
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == metric and is_meant(sample.labels)
    )


def get(url: str) -> tuple[Labels, str]:
    """Headers and body of what a process answers. Blocks. Raises OSError."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return dict(reply.headers), reply.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url} was not answered to the end.") from error

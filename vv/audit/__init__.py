"""The audit behind ``vv audit``. Where to find what:

- ``run``: one audit from start to report; ``invariants``: what must hold, one function each
- ``books``: everything that is read (``order_books``, ``stock_books``, ``gateway_books``; page by page: ``pages``)
- ``facts``: what is known of one order, payment or SKU once it has been read; invariants judge these
- ``fixes``: what to do about a violation of each invariant, as ``proposals``; ``repair``: carrying one out
- ``output``: the report for people and for scripts; ``formatting``: quantities, money and rows as text
"""

from vv.audit.books import Books, open_books
from vv.audit.run import Report, audit

__all__ = ["Books", "Report", "audit", "open_books"]

"""The durable record of removal requests: what was asked, what was done about it, and what proves it."""

from expunge.ledger.access import AccessKey
from expunge.ledger.history import Event, Verification
from expunge.ledger.ledger import Ledger
from expunge.ledger.requests import Entry, LedgerError, Pair, RemovalRequest

__all__ = ["AccessKey", "Entry", "Event", "Ledger", "LedgerError", "Pair", "RemovalRequest", "Verification"]
